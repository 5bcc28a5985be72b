"""Items as cells: what one item looks like, a picture or a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from einops import rearrange
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.nn.types import DataSpec
from vqtk.report import lines
from vqtk.report.voxels import render

Form = Literal["pictures", "lines", "points", "text", "nothing"]
"""How items are shown: each as a picture, as lines in a picture, as a point of the plane, as a text; or not at all."""

UNKNOWN = "�"
_VISIBLE = {"\n": "⏎", "\t": "⇥"}


def form(data: DataSpec) -> Form:
    """Return how the items of data are shown."""
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
    """Raise VqtkError if items of such data cannot be shown."""
    if form(data) == "nothing":
        raise VqtkError(
            f"{data.kind} data of shape {data.shape} cannot be drawn. Drawn are images (channels, h, w), voxels "
            "(1, x, y, z), signals (channels, time), vectors, and text. From Python, model.decode gives the values."
        )


def pictures(data: DataSpec, items: Tensor, *, over: Tensor | None = None, alike: Sequence[Tensor] = ()) -> Tensor:
    """Return items (n, *data shape) in training units as pictures (n, c, h, w) in [0, 1].

    Images are shown as they are, their channels side by side where they are neither one nor three; grids drawn, solid
    from 0.5 on, the third axis up; signals and vectors as lines, over other items in grey where these are given, on a
    scale that holds the items `alike`, too. Raises: VqtkError if they cannot be drawn.
    """
    require_drawn(data)
    if form(data) == "lines":
        channels = [_channels(one) for one in (items, *([] if over is None else [over]), *alike)]
        return lines.render(channels[0], scale=lines.span(*channels), over=None if over is None else channels[1])
    values = data.pixels(items.detach().float().cpu())
    if data.kind == "voxels":
        return render(values)
    return values if values.shape[1] in (1, 3) else rearrange(values, "n c h w -> n 1 h (c w)")


def _channels(items: Tensor) -> Tensor:
    """Return signals (n, c, t) as they are, and vectors (n, d) as signals of one channel."""
    return items if items.ndim == 3 else items[:, None]


def texts(data: DataSpec, items: Tensor) -> list[str]:
    """Return tokens (n, length) as texts of one line each."""
    return [as_text(tokens, data.characters) for tokens in items.tolist()]


def as_text(tokens: list[int], characters: str | None) -> str:
    """Return tokens as one line, a character each: line ends and tabs as signs, what cannot be shown as `�`.

    The spaces of a line of nothing else are shown as `·`.
    """
    known = [_visible(character) for character in characters or ""]
    line = "".join(known[token] if 0 <= token < len(known) else UNKNOWN for token in tokens)
    return line if line.strip() else "·" * len(line)


def _visible(character: str) -> str:
    if character.isspace():
        return _VISIBLE.get(character, " ")
    return character if character.isprintable() else UNKNOWN
