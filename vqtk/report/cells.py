"""Items as cells: what one item looks like, a picture or a line of text."""

from __future__ import annotations

from torch import Tensor

from vqtk.nn.types import DataSpec
from vqtk.report.voxels import render

UNKNOWN = "�"
_VISIBLE = {"\n": "⏎", "\t": "⇥"}


def pictures(data: DataSpec, items: Tensor) -> Tensor:
    """Return images or voxel grids (n, *data shape) in training units as pictures (n, c, h, w) in [0, 1].

    Images are shown as they are, grids drawn: solid from 0.5 on, the third axis up.
    """
    values = data.pixels(items.detach().float().cpu())
    return render(values) if data.kind == "voxels" else values


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
