"""Draw samples, reconstructions, stages and proposals, for each kind of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.models import Model
from vqtk.nn.types import DataSpec
from vqtk.render import points, text
from vqtk.render.labelled import EXAMPLE, Labels, numbered_rows, paired_rows, stage_labels
from vqtk.render.points import Sound, sound_of
from vqtk.render.sheets import ImageSheet, Sheet, grid, pairs, stage_strip
from vqtk.render.voxels import render_voxels

Form = Literal["pictures", "lines", "points", "text", "nothing"]
"""How examples are drawn: as an image each, as lines in an image, as points in the plane, as text; or not at all."""


def form(data: DataSpec) -> Form:
    """Return how the examples of data are drawn."""
    axes = len(data.shape)
    if data.kind == "text":
        return "text"
    if data.kind == "points" and data.shape == (2,):
        return "points"
    if axes <= 2:
        return "lines"
    if (data.kind == "image" and axes == 3) or (data.kind == "voxels" and axes == 4 and data.shape[0] == 1):
        return "pictures"
    return "nothing"


def require_drawn(data: DataSpec) -> None:
    """Raise VqtkError if examples of such data cannot be drawn."""
    if form(data) == "nothing":
        raise VqtkError(
            f"{data.kind} data of shape {data.shape} cannot be drawn. Expected images (channels, h, w), voxels "
            "(1, x, y, z), signals (channels, time), vectors or text. From Python, model.decode returns the values."
        )


def pictures(data: DataSpec, items: Tensor, *, over: Tensor | None = None, alike: Sequence[Tensor] = ()) -> Tensor:
    """Return examples (n, *data shape) in training units as images (n, c, h, w) in [0, 1].

    Images are not changed, except that channels which are neither one nor three are put side by side. Voxels are drawn
    in three dimensions, solid from 0.5 on, the third axis up. Signals and vectors are drawn as lines.

    Arguments:
        data: what the examples are.
        items: the examples.
        over: further signals, drawn in grey under them.
        alike: further examples that the scale of the lines covers, so that several calls share one scale.

    Raises: VqtkError if they cannot be drawn.
    """
    require_drawn(data)
    if form(data) == "lines":
        channels = [_channels(one) for one in (items, *([] if over is None else [over]), *alike)]
        return points.render_signal(
            channels[0], scale=points.span_of(*channels), over=None if over is None else channels[1]
        )
    values = data.pixels(items.detach().float().cpu())
    if data.kind == "voxels":
        return render_voxels(values)
    return values if values.shape[1] in (1, 3) else rearrange(values, "n c h w -> n 1 h (c w)")


def _channels(items: Tensor) -> Tensor:
    """Return signals (n, c, t) unchanged, and vectors (n, d) as signals of one channel."""
    return items if items.ndim == 3 else items[:, None]


def _heard(data: DataSpec, *parts: Tensor) -> Sound | None:
    """Return examples (n, 1, t) in training units as sound; None if they are not sounds."""
    return None if data.rate is None else sound_of(*parts, unit=data.std, rate=data.rate)


def texts(data: DataSpec, items: Tensor) -> list[str]:
    """Return each row of tokens (n, length) as text on one line."""
    return [text.as_text(tokens, data.characters) for tokens in items.tolist()]


_VALUES_AT_ONCE = 1 << 26


def random_codes(model: Model, *, count: int, seed: int, stages: int | None = None) -> Tensor:
    """Return the codes (n, s) that `samples` decodes: random codes of the model, or their first `stages`."""
    return model.random_codes(count, generator=torch.Generator().manual_seed(seed))[:, :stages]


def encoded(model: Model, targets: Tensor) -> Tensor:
    """Return the codes (n, s) of targets (n, *data shape) in training units, a few at a time."""
    return in_pieces(model, model.encode, targets)


@torch.no_grad()
def shown_as(model: Model, codes: Tensor) -> Tensor:
    """Return decoded codes (n, s) as data in training units (n, *data shape), a few at a time."""
    return model.loss.show(in_pieces(model, model.decode, codes))


@torch.no_grad()
def distortion(model: Model, targets: Tensor, codes: Tensor) -> Tensor:
    """Return the loss (n,) of targets (n, *data shape) in training units under their codes (n, s)."""
    return model.loss(in_pieces(model, model.decode, codes)[:, None], targets)[:, 0]


@torch.no_grad()
def samples(
    model: Model,
    *,
    count: int = 64,
    seed: int = 0,
    stages: int | None = None,
    columns: int = 8,
    over: Tensor | None = None,
) -> Sheet:
    """Return the reconstructions of random codes of the model, or of their first `stages` (see `decoded`).

    Raises: VqtkError if only whole codes can be decoded.
    """
    if stages is not None:
        require_stepwise(model)
    codes = random_codes(model, count=count, seed=seed, stages=stages)
    return decoded(model, codes, columns=columns, over=over)


@torch.no_grad()
def show(model: Model, examples: Tensor, *, columns: int = 8) -> Sheet:
    """Return reconstructions (n, *shape) of a model as a sheet, which a notebook shows: `vqtk.show(model, x)`.

    `sheet.write(path)` writes it, and `sheet.image()` returns the image.

    Raises: VqtkError if they are not reconstructions of this model, or cannot be drawn.
    """
    if tuple(examples.shape[1:]) != tuple(model.loss.shape):
        expected = ", ".join(map(str, model.loss.shape))
        raise VqtkError(
            f"examples of shape {tuple(examples.shape)}: expected (n, {expected}), as model.decode returns."
        )
    require_drawn(model.data)
    return _drawn(model, model.loss.show(examples.detach()), columns, what="example")


@torch.no_grad()
def decoded(model: Model, codes: Tensor, *, columns: int = 8, over: Tensor | None = None) -> Sheet:
    """Return the reconstructions of codes (n, s), drawn as samples.

    Points are drawn over the examples `over` (n, 2) in training units, if given.
    """
    require_drawn(model.data)
    return _drawn(model, shown_as(model, codes), columns, over)


def _drawn(model: Model, shown: Tensor, columns: int, over: Tensor | None = None, *, what: str = "sample") -> Sheet:
    """Return data in training units (n, *data shape), drawn as samples; `what` they are, in words."""
    if form(model.data) == "text":
        return text.sample_lines(texts(model.data, shown))
    if form(model.data) == "points":
        return points.sample_plots(shown.cpu(), over=None if over is None else over.cpu())
    cells, sound = pictures(model.data, shown), _heard(model.data, shown)
    return ImageSheet(grid(cells, columns), f"{len(shown)} {what}s", sound, numbered_rows(cells, columns, what))


@torch.no_grad()
def reconstructions(
    model: Model,
    targets: Tensor,
    *,
    codes: Tensor | None = None,
    columns: int = 8,
    indices: Sequence[int] | None = None,
) -> Sheet:
    """Return targets (n, *data shape) in training units with their reconstructions below them.

    Their `codes` (n, s) are found by encoding if not given. Labels number them by their `indices`, or from 0.
    """
    require_drawn(model.data)
    shown = shown_as(model, encoded(model, targets) if codes is None else codes)
    if form(model.data) == "text":
        differing = [frozenset(row.nonzero()[:, 0].tolist()) for row in (targets != shown).cpu()]
        return text.pair_lines(texts(model.data, targets), texts(model.data, shown), differing)
    if form(model.data) == "points":
        return points.reconstruction_plots(targets.cpu(), shown.cpu())
    cells = pictures(model.data, targets, alike=[shown]), pictures(model.data, shown, over=targets)
    sheet = pairs(*cells, columns)
    alt = f"{len(targets)} examples, each with its reconstruction below it"
    labels = paired_rows(cells[0], columns, indices or range(len(targets)))
    return ImageSheet(sheet, alt, _heard(model.data, targets, shown), labels)


@torch.no_grad()
def stages(
    model: Model, targets: Tensor, *, codes: Tensor | None = None, indices: Sequence[int] | None = None
) -> Sheet:
    """Return the reconstruction after each stage, and last the targets (n, *data shape) in training units.

    Their `codes` (n, s) are found by encoding if not given. Labels number them by their `indices`, or from 0.

    Raises: VqtkError if only whole codes can be decoded.
    """
    require_stepwise(model)
    require_drawn(model.data)
    after = in_pieces(model, model.decode_stages, encoded(model, targets) if codes is None else codes)
    shown = [model.loss.show(one) for one in after]
    if form(model.data) == "text":
        return text.stage_lines(texts(model.data, targets), [texts(model.data, one) for one in shown])
    if form(model.data) == "points":
        panels = stage_labels(model.stages, model.options)
        return points.stage_plots(targets.cpu(), torch.stack(shown).cpu(), panels=panels)
    every = torch.cat([*shown, targets])
    over = [target.expand_as(one) for target, one in zip(targets, shown, strict=True)]
    drawn = [pictures(model.data, one, over=its, alike=[every]) for one, its in zip(shown, over, strict=True)]
    inputs = pictures(model.data, targets, alike=[every])
    alt = f"{len(after)} examples after 1 to {after.shape[1]} stages, and the examples last"
    rows, columns = [*stage_labels(after.shape[1], model.options), "input"], map(str, indices or range(len(targets)))
    labels = Labels((inputs.shape[2], inputs.shape[3]), rows, columns=list(columns), corner=EXAMPLE)
    sound = _heard(model.data, *torch.stack(shown, 1), targets)
    return ImageSheet(stage_strip(inputs, torch.stack(drawn)), alt, sound, labels)


@torch.no_grad()
def proposals(model: Model, target: Tensor, *, stage: int, columns: int = 8) -> tuple[Sheet, int]:
    """Return a stage's (from 0) proposals for a target (*data shape), the chosen option marked, and that option.

    Raises: VqtkError if only whole codes can be decoded.
    """
    require_stepwise(model)
    require_drawn(model.data)
    codes = model.encode(target[None])
    chosen = int(codes[0, stage])
    shown = model.loss.show(model.proposals(codes[:, :stage])[0])
    if form(model.data) == "text":
        return text.option_lines(texts(model.data, shown), chosen), chosen
    alt = f"{len(shown)} options of stage {stage + 1}, option {chosen} chosen"
    if form(model.data) == "points":
        start = model.loss.show(model.decode(codes[:, :stage]))[0].cpu()
        return points.proposal_plots(shown.cpu(), start=start, target=target.cpu(), chosen=chosen, alt=alt), chosen
    cells = pictures(model.data, shown, over=target.expand_as(shown))
    return ImageSheet(
        grid(cells, columns, framed={chosen}), alt, labels=numbered_rows(cells, columns, "option")
    ), chosen


def write_all(model: Model, targets: Tensor, folder: Path, update: int) -> list[str]:
    """Write a run's samples and reconstructions, and for a stepwise model its stages and the proposals of an early one.

    File names contain the update. Return lines about what could not be drawn or written, rather than raise: no image
    ends a run.
    """
    model.eval()
    try:
        require_drawn(model.data)
    except VqtkError as error:
        return [f"No images: {error}"]
    codes = encoded(model, targets)
    shown = len(targets) if form(model.data) == "points" else 10
    sheets: dict[str, Callable[[], Sheet]] = {
        "samples": lambda: samples(model, count=2 * len(targets), over=targets),
        "reconstructions": lambda: reconstructions(model, targets, codes=codes),
    }
    if model.stepwise:
        sheets["stages"] = lambda: stages(model, targets[:shown], codes=codes[:shown])
        sheets["proposals"] = lambda: proposals(model, targets[0], stage=min(2, model.stages - 1))[0]
    notes = []
    for name, make in sheets.items():
        try:
            sheet = make()
            sheet.write(folder / f"{name}_{update:08d}{sheet.suffix}")
        except Exception as error:
            notes.append(f"No image of {name}: {' '.join(str(error).split())[:200] or type(error).__name__}")
    return notes


def require_stepwise(model: Model) -> None:
    """Raise VqtkError if a model decodes whole codes only."""
    if not model.stepwise:
        raise VqtkError(
            f"this model ({type(model).__name__}) decodes whole codes only, so it has no single stages to show. "
            "Use `vqtk sample` without --stages, or `vqtk reconstruct`."
        )


def in_pieces(model: Model, function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """Apply a function to a few examples at a time, so that all their proposals fit into memory."""
    size = max(1, _VALUES_AT_ONCE // (model.options * prod(model.loss.shape)))
    return torch.cat([function(piece) for piece in items.split(size)])
