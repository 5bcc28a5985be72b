"""The first levels of the tree of codes below a prefix, as one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.models import Model
from vqtk.nn.types import DataSpec
from vqtk.render import points
from vqtk.render.pictures import form, in_pieces, pictures, require_drawn, require_stepwise, texts
from vqtk.render.sheets import Sheet, mosaic
from vqtk.render.text import Line, TextSheet

MOST_NODES = 6000
"""The most nodes below the prefix that are shown."""

_TEXT = 72
_USUAL_LEVELS = {"image": 2}


@dataclass(frozen=True)
class Level:
    """The nodes of one level: codes (n, s), and what they show: images (n, c, h, w), or examples of the data.

    Every node has the same number of places for children, which are next to each other on the next level, in the order
    of their parents. Where only options that examples use are shown, places may be left over; `taken` (n,) is False
    for these.
    """

    codes: Tensor
    shown: Tensor
    taken: Tensor


@torch.no_grad()
def tree(
    model: Model,
    *,
    prefix: Sequence[int] = (),
    levels: int | None = None,
    options: int | None = None,
    used_by: Tensor | None = None,
) -> tuple[Sheet, list[Level]]:
    """Return the tree below a prefix of codes as a sheet, and its levels, the first of which is the prefix alone.

    Arguments:
        model: the model.
        prefix: the codes of the first stages.
        levels: the number of stages below the prefix; by default two for images, as many as can be shown for points,
            and one for all other data.
        options: the number of children of a node: the first options, or the most used ones with `used_by`; by default
            all.
        used_by: codes (n, stages) of examples; a node then has the options that most of the examples passing through
            it use, and fewer if they use fewer.

    Raises: VqtkError if the prefix or a number does not fit the model, or there would be too many nodes.
    """
    require_stepwise(model)
    require_drawn(model.data)
    _check(model, prefix, levels, options)
    width, left = options or model.options, model.stages - len(prefix)
    count = levels or _usual_levels(model.data, width, left)
    _check_nodes(count, width)
    grown = _grown(model, prefix, levels=count, width=width, used_by=used_by)
    if used_by is not None and not grown[1].taken.any():
        raise VqtkError(
            f"--used: none of the {len(used_by)} examples passes through {_named(prefix)}. Give more examples."
        )
    which = f"The {'first' if used_by is None else 'most used'} {width}"
    which = f"All {width}" if width == model.options and used_by is None else which
    alt = f"{which} options of each node, {count} stages deep, below {_named(prefix)}"
    return _sheet(model.data, grown, alt), grown


def _grown(model: Model, prefix: Sequence[int], *, levels: int, width: int, used_by: Tensor | None) -> list[Level]:
    codes = torch.tensor([list(prefix)], dtype=torch.int64, device=model.device).reshape(1, -1)
    taken = torch.ones(1, dtype=torch.bool)
    grown = [Level(codes.cpu(), _cells(model.data, model.loss.show(model.decode(codes))), taken)]
    for _ in range(levels):
        children, some = _children(codes, width, model.options, used_by)
        taken = (taken[:, None] & some.cpu()).flatten()

        def proposed(rows: Tensor) -> Tensor:
            before, chosen = rows[:, :-width], rows[:, -width:]
            picked = model.proposals(before)[torch.arange(len(rows), device=rows.device)[:, None], chosen]
            return _cells(model.data, model.loss.show(picked.flatten(0, 1)))

        shown = in_pieces(model, proposed, torch.cat([codes, children], 1))
        codes = torch.cat([codes.repeat_interleave(width, 0), children.reshape(-1, 1)], 1)
        grown.append(Level(codes.cpu(), shown, taken))
    return grown


def _children(codes: Tensor, width: int, options: int, used_by: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the options below each node, and whether any example uses them: codes (n, s) → (n, width) each."""
    if used_by is None:
        children = torch.arange(width, device=codes.device).expand(len(codes), -1)
        return children, torch.ones_like(children, dtype=torch.bool)
    stage, used_by = codes.shape[1], used_by.to(codes.device)
    through = (used_by[:, None, :stage] == codes).all(2)
    taken = torch.nn.functional.one_hot(used_by[:, stage], options)
    counts = through.T.double() @ taken.double()
    children = counts.argsort(dim=1, descending=True, stable=True)[:, :width]
    return children, counts.gather(1, children) > 0


def _cells(data: DataSpec, items: Tensor) -> Tensor:
    return pictures(data, items) if form(data) == "pictures" else items.cpu()


def _sheet(data: DataSpec, grown: list[Level], alt: str) -> Sheet:
    codes, taken = [level.codes.tolist() for level in grown], [level.taken for level in grown]
    if form(data) == "text":
        return _lines(codes, [texts(data, level.shown) for level in grown], [some.tolist() for some in taken])
    shown = [level.shown for level in grown]
    if form(data) == "points":
        return points.tree_plot(shown, taken, first=len(codes[0][0]) + 1, alt=alt)
    if form(data) == "lines":
        every = torch.cat([level[some] for level, some in zip(shown, taken, strict=True)])
        shown = [pictures(data, level, alike=[every]) for level in shown]
    return mosaic(shown, codes, taken, alt=alt)


def _lines(codes: list[list[list[int]]], shown: list[list[str]], taken: list[list[bool]]) -> TextSheet:
    """Return the nodes as lines, indented by level, with their codes as labels; each child of the root is a block."""

    def below(level: int, node: int) -> list[Line]:
        text = shown[level][node]
        short = text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
        own = Line(",".join(map(str, codes[level][node])), "  " * (level - 1) + short)
        if level + 1 == len(codes):
            return [own]
        width = len(codes[1])
        children = (node * width + child for child in range(width))
        return [own, *(line for child in children if taken[level + 1][child] for line in below(level + 1, child))]

    roots = [below(1, node) for node in range(len(codes[1])) if taken[1][node]]
    return TextSheet(roots if len(codes) > 2 else [[line for root in roots for line in root]])


def _usual_levels(data: DataSpec, width: int, left: int) -> int:
    most = left if form(data) == "points" else _USUAL_LEVELS.get(data.kind, 1)
    while most > 1 and _nodes(most, width) > MOST_NODES:
        most -= 1
    return min(most, left)


def _nodes(levels: int, width: int) -> int:
    return sum(width**level for level in range(1, levels + 1))


def _named(prefix: Sequence[int]) -> str:
    return f"the prefix {','.join(map(str, prefix))}" if prefix else "the root"


def _check(model: Model, prefix: Sequence[int], levels: int | None, options: int | None) -> None:
    left = model.stages - len(prefix)
    if left < 1:
        raise VqtkError(
            f"--prefix {','.join(map(str, prefix))}: {len(prefix)} codes, and this model has {model.stages} stages. "
            "There is nothing below a whole code; give fewer."
        )
    if not all(0 <= code < model.options for code in prefix):
        raise VqtkError(
            f"--prefix {','.join(map(str, prefix))}: expected options of this model, from 0 to {model.options - 1}."
        )
    if levels and not 1 <= levels <= left:
        raise VqtkError(f"--levels {levels}: expected 1 to {left}, the stages below {_named(prefix)}.")
    if options and not 1 <= options <= model.options:
        raise VqtkError(f"--options {options}: expected 1 to {model.options}, the options of this model.")


def _check_nodes(levels: int, width: int) -> None:
    nodes = _nodes(levels, width)
    if nodes > MOST_NODES:
        raise VqtkError(
            f"--levels {levels}: {width} options at each node make {nodes:,} nodes; at most {MOST_NODES:,} can be "
            "shown. Give fewer --levels or --options, or look further down with --prefix."
        )
