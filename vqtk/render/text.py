"""Texts laid out in lines: samples, items with their reconstructions, stages, proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from rich.cells import cell_len, chop_cells
from rich.console import RenderableType
from rich.text import Text

from vqtk.errors import VqtkError
from vqtk.files import write_text

_MARK = "bold white on red"
_LABEL = "dim"
_GAP = "  "
_NARROWEST = 20


@dataclass(frozen=True)
class Line:
    """One text with its label; the characters at the indices `marked` stand out, or, where `chosen`, all of it."""

    label: str
    text: str
    marked: frozenset[int] = field(default=frozenset())
    chosen: bool = False


Block = Sequence[Line]


@dataclass(frozen=True)
class TextSheet:
    """Blocks of lines, with an empty line between them."""

    blocks: Sequence[Block]
    suffix = ".txt"

    @property
    def plain(self) -> str:
        """The lines, with `^` below what is marked and `>` before what is chosen."""
        width = self._label_width()
        return "\n\n".join("\n".join(_plain(line, width) for line in block) for block in self.blocks) + "\n"

    def write(self, path: Path) -> None:
        """Write it in UTF-8. Raises: VqtkError if it cannot be written."""
        try:
            write_text(path, self.plain)
        except OSError as error:
            raise VqtkError(f"{path}: the text cannot be written ({error}). Choose another path with -o.") from None

    def drawn(self, columns: int) -> RenderableType:
        """Return it in colour, long lines continued below their beginning."""
        width = self._label_width()
        room = max(_NARROWEST, columns - width - len(_GAP))
        blocks = [Text("\n").join(_coloured(line, width, room) for line in block) for block in self.blocks]
        return Text("\n\n", no_wrap=True).join(blocks)

    def _label_width(self) -> int:
        return max((len(_label(line)) for block in self.blocks for line in block), default=0)


def sample_lines(texts: Sequence[str]) -> TextSheet:
    """Return one numbered line a text."""
    return TextSheet([[Line(str(index), text) for index, text in enumerate(texts)]])


def pair_lines(items: Sequence[str], reconstructions: Sequence[str], differing: Sequence[frozenset[int]]) -> TextSheet:
    """Return each item with its reconstruction below it, the characters at the indices that differ marked.

    These are those of the tokens: a sign may stand for several, and a line of spaces has signs of its own.
    """
    return TextSheet(
        [
            [Line("item", item), Line("reconstruction", text, marked)]
            for item, text, marked in zip(items, reconstructions, differing, strict=True)
        ]
    )


def stage_lines(items: Sequence[str], after: Sequence[Sequence[str]]) -> TextSheet:
    """Return for each item one line a stage, the item itself last; after holds each item's texts, stage by stage."""
    return TextSheet(
        [
            [*(Line(f"stage {stage}", text) for stage, text in enumerate(texts, start=1)), Line("item", item)]
            for item, texts in zip(items, after, strict=True)
        ]
    )


def option_lines(texts: Sequence[str], chosen: int) -> TextSheet:
    """Return one line an option, the chosen one marked."""
    return TextSheet([[Line(str(index), text, chosen=index == chosen) for index, text in enumerate(texts)]])


def _label(line: Line) -> str:
    return f"> {line.label}" if line.chosen else line.label


def _plain(line: Line, width: int) -> str:
    shown = f"{_label(line):>{width}}{_GAP}{line.text}"
    if not line.marked:
        return shown
    below = "".join(
        ("^" if index in line.marked else " ") * cell_len(character) for index, character in enumerate(line.text)
    )
    return f"{shown}\n{' ' * width}{_GAP}{below.rstrip()}"


def _coloured(line: Line, width: int, room: int) -> Text:
    text = Text(line.text, style="bold reverse" if line.chosen else "")
    for index in line.marked:
        text.stylize(_MARK, index, index + 1)
    ends = list(accumulate(len(piece) for piece in chop_cells(line.text, room)))
    continued = Text("\n" + " " * width + _GAP).join(text.divide(ends[:-1]))
    return Text.assemble((f"{_label(line):>{width}}{_GAP}", _LABEL), continued)
