"""Texts laid out in lines: samples, examples with their reconstructions, stages and proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

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
    """One text with its label; the characters at the indices `marked` are highlighted, or all of them if `chosen`."""

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
        """The lines, with `^` below marked characters and `>` before the chosen line."""
        width = self._label_width()
        return "\n\n".join("\n".join(_plain(line, width) for line in block) for block in self.blocks) + "\n"

    def write(self, path: Path) -> None:
        """Write the lines in UTF-8. Raises: VqtkError if the file cannot be written."""
        try:
            write_text(path, self.plain)
        except OSError as error:
            raise VqtkError(f"{path}: the text cannot be written ({error}). Choose another path with --out.") from None

    def drawn(self, columns: int) -> RenderableType:
        """Return the lines in colour, long ones wrapped with an indent."""
        width = self._label_width()
        room = max(_NARROWEST, columns - width - len(_GAP))
        blocks = [Text("\n").join(_coloured(line, width, room) for line in block) for block in self.blocks]
        return Text("\n\n", no_wrap=True).join(blocks)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return what IPython shows: the lines."""
        return {"text/plain": self.plain}

    def _label_width(self) -> int:
        return max((len(_label(line)) for block in self.blocks for line in block), default=0)


def sample_lines(texts: Sequence[str]) -> TextSheet:
    """Return one numbered line for each text."""
    return TextSheet([[Line(str(index), text) for index, text in enumerate(texts)]])


def pair_lines(items: Sequence[str], reconstructions: Sequence[str], differing: Sequence[frozenset[int]]) -> TextSheet:
    """Return each example with its reconstruction below it, marking the characters at the indices that differ.

    The indices come from the tokens, because the texts may not show a difference: several tokens may have the same
    symbol.
    """
    return TextSheet(
        [
            [Line("example", example), Line("reconstruction", text, marked)]
            for example, text, marked in zip(items, reconstructions, differing, strict=True)
        ]
    )


def stage_lines(items: Sequence[str], after: Sequence[Sequence[str]]) -> TextSheet:
    """Return a line for each stage of each example, then the example; `after` holds an example's texts by stage."""
    return TextSheet(
        [
            [*(Line(f"stage {stage}", text) for stage, text in enumerate(texts, start=1)), Line("example", example)]
            for example, texts in zip(items, after, strict=True)
        ]
    )


def option_lines(texts: Sequence[str], chosen: int) -> TextSheet:
    """Return one line for each option, the chosen one marked."""
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


UNKNOWN = "�"
_VISIBLE = {"\n": "⏎", "\t": "⇥"}


def as_text(tokens: list[int], characters: str | None) -> str:
    """Return tokens as one line, a character each: line ends and tabs as symbols, unprintable characters as `�`.

    In a line of spaces only they are shown as `·`.
    """
    known = [_visible(character) for character in characters or ""]
    line = "".join(known[token] if 0 <= token < len(known) else UNKNOWN for token in tokens)
    return line if line.strip() else "·" * len(line)


def _visible(character: str) -> str:
    if character.isspace():
        return _VISIBLE.get(character, " ")
    return character if character.isprintable() else UNKNOWN
