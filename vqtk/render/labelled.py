"""Sheets with a title and labels, laid out for print: as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf, log2
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.files import replacing
from vqtk.render.points import PlotSheet
from vqtk.render.sheets import GAP, ImageSheet, MosaicSheet

if TYPE_CHECKING:  # Importing matplotlib takes long; the images of a run do without it.
    from matplotlib.figure import Figure

EXAMPLE = "test example"
"""What columns or images number."""

_DPI = 200
_WIDTH_IN, _HEIGHT_IN, _IMAGE_IN = 6.0, 8.0, 1.0
"""The largest size of a sheet on paper, and of one of its images."""
_NARROWEST_IN = 3.5
"""Of a sheet with its labels, so that a title has room."""
_TITLE_PT, _LABEL_PT, _SMALLEST_PT = 9.0, 7.5, 4.0
_LINE, _PAD_PT = 1.3, 4.0
_MOST_PIXELS = 1 << 16
_SLIMMER = 0.94
"""The letters of a tree are wider in this font than in that of its plain image."""
_INK = "#1c2834"
_FONT = "DejaVu Sans"
"""It ships with matplotlib, so that a sheet is the same everywhere."""


@dataclass(frozen=True)
class Labels:
    """The words around a sheet of rows of images.

    Arguments:
        image: the height and width of an image in pixels.
        rows: one left of each row.
        columns: one above each column.
        captions: one above each image, row by row; a row whose captions are all empty has no room for them.
        corner: what the columns or captions number, left of them.
    """

    image: tuple[int, int]
    rows: Sequence[str]
    columns: Sequence[str] = ()
    captions: Sequence[str] = ()
    corner: str = ""


def numbered_rows(pictures: Tensor, columns: int, what: str) -> Labels:
    """Return the labels of images (n, c, h, w) in rows: what they are, and their numbers, as in `samples 8–15`."""
    ranges = [range(len(pictures))[first : first + columns] for first in range(0, len(pictures), columns)]
    rows = [f"{what} {row[0]}" if len(row) == 1 else f"{what}s {row[0]}–{row[-1]}" for row in ranges]
    return Labels(_size(pictures), rows)


def paired_rows(pictures: Tensor, columns: int, numbers: Sequence[int]) -> Labels:
    """Return the labels of pairs of rows, inputs (n, c, h, w) above their reconstructions."""
    captions: list[str] = []
    columns = min(columns, len(pictures))
    for first in range(0, len(pictures), columns):
        row = [str(number) for number in numbers[first : first + columns]]
        captions += [*row, *[""] * (2 * columns - len(row))]
    rows = ["input", "reconstruction"] * -(-len(pictures) // columns)
    return Labels(_size(pictures), rows, captions=captions, corner=EXAMPLE)


def stage_labels(stages: int, options: int) -> list[str]:
    """Return the label of each stage, with the bits of a code that ends there: `stage 2 · 12 bits`."""
    return [f"stage {stage} · {bits_label(stage, options)}" for stage in range(1, stages + 1)]


def bits_label(stages: int, options: int) -> str:
    """Return the number of bits of that many stages, in words."""
    bits = round(stages * log2(options), 1)
    return f"{bits:g} bit{'' if bits == 1 else 's'}"


def examples_label(count: int) -> str:
    """Return a number of test examples, in words."""
    return f"{count:,} test example{'' if count == 1 else 's'}"


def _size(pictures: Tensor) -> tuple[int, int]:
    return pictures.shape[2], pictures.shape[3]


def write_labelled(
    sheet: ImageSheet, path: Path, *, title: str | None, format: str = "png", dpi: int | None = None
) -> None:
    """Write a sheet with its labels, replacing the file atomically, and its sound beside it as .wav.

    Small images are enlarged by a whole number. Text is stored as text in SVG and PDF, where points are drawn as
    shapes. The same sheet gives the same bytes.

    Arguments:
        sheet: the sheet.
        path: the file.
        title: the line above the sheet; None leaves out all labels.
        format: png, svg or pdf.
        dpi: pixels per inch, from 50 to 600; more if the images have more pixels than fit on a page. Default: 200.

    Raises: VqtkError if the file cannot be written, or there are too many images for one sheet.
    """
    try:
        with _typeset():
            save_figure(labelled_figure(sheet, title, dpi=dpi or _DPI), path, format=format)
        if sheet.sound:
            sheet.sound.write(path.with_suffix(".wav"))
    except OSError as error:
        raise VqtkError(f"{path}: the image cannot be written ({error}). Choose another path with --out.") from None


def save_figure(figure: Figure, path: Path, *, format: str) -> None:
    """Write a figure as png, svg or pdf at its own resolution, replacing the file atomically; no date is in it."""
    left_out = {"png": ("Software",), "svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer")}
    with _typeset(), replacing(path) as temporary:
        figure.savefig(temporary, format=format, dpi=figure.dpi, metadata=dict.fromkeys(left_out[format]))


def _typeset() -> AbstractContextManager[None]:
    """Return a context in which figures are laid out and written with text as text."""
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": [_FONT],
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "vqtk",
        "text.usetex": False,
    }
    return matplotlib.rc_context(settings)


def labelled_figure(sheet: ImageSheet, title: str | None, *, dpi: int) -> Figure:
    """Return a sheet as a matplotlib figure, with its labels if a title is given."""
    if isinstance(sheet, PlotSheet):
        return _labelled_plot(sheet, title, dpi)
    return _Layout(sheet, title, dpi).figure()


def _labelled_plot(sheet: PlotSheet, title: str | None, dpi: int) -> Figure:
    from matplotlib.collections import PathCollection

    figure = sheet.figure
    figure.set_dpi(dpi)
    if title is None:
        return figure
    axes = figure.axes[0]
    handles, names = axes.get_legend_handles_labels()
    outside = bool(names) and axes.get_legend() is None
    figure.set_figheight(figure.get_figheight() + (0.55 if outside else 0.3))
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=_TITLE_PT, color=_INK, parse_math=False)
    for panel, label in zip(figure.axes, sheet.panels, strict=False):
        panel.set_title(label, fontsize=_LABEL_PT, color=_INK)
    if outside:
        legend = figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=_LABEL_PT)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([24])
    return figure


class _Layout:
    """Where the parts of a sheet of images are, in pixels from the upper left corner."""

    def __init__(self, sheet: ImageSheet, title: str | None, dpi: int):
        height, width = sheet.pixels.shape[1:]
        self.sheet = sheet
        self.labels = labels = (title and sheet.labels) or Labels((height, width), rows=())
        fits = max(width / _WIDTH_IN, height / _HEIGHT_IN)
        # The labels of many rows need room: then the sheet is longer than a page.
        self.dpi = max(dpi, int(min(fits, labels.image[0] * 72 / _LABEL_PT)))
        widest = _IMAGE_IN * self.dpi / labels.image[1] if labels.rows else inf
        self.scale = max(1, int(min(self.dpi / fits, widest)))
        self.row, self.column = (self.scale * (side + GAP) for side in labels.image)
        self.pad = self._pixels(_PAD_PT) if title else 0
        self._measure_labels()
        self.left = self.pad + (self.beside + self.pad if self.beside else 0)
        self.across = max(self.left + self.scale * width + self.pad, self._pixels(72 * _NARROWEST_IN) if title else 0)
        self.title = _wrapped(title or "", (self.across - 2 * self.pad) / self.dpi)
        lines = self.title.count("\n") + 1 if title else 0
        self.top = 2 * self.pad + self._pixels(_LINE * _TITLE_PT * lines) + self.head
        self.down = self.top + sum(self.above) + self.scale * height + self.pad

    def _measure_labels(self) -> None:
        """Choose font sizes at which the labels fit, and set the room that they need beside and above the images."""
        labels, dots = self.labels, 72 / self.dpi
        beside = [text for text in (*labels.rows, labels.corner) if text]
        self.row_pt = max(1.0, min(_LABEL_PT, 0.85 * self.row * dots))
        self.beside = self._widest(beside, self.row_pt)
        longest = max(1, self._widest([*labels.columns, *labels.captions], _LABEL_PT))
        self.column_pt = _LABEL_PT * min(1, 0.95 * self.column / longest)
        self.turned = bool(labels.columns) and self.column_pt < _SMALLEST_PT
        if self.turned:
            self.column_pt = max(1.0, min(_LABEL_PT, 0.8 * self.column * dots))
        line = self._pixels(_LINE * self.column_pt)
        self.head = (
            round(longest * self.column_pt / _LABEL_PT) + self.pad if self.turned else line * bool(labels.columns)
        )
        across = len(labels.captions) // max(1, len(labels.rows))
        rows = [labels.captions[row * across :][:across] for row in range(len(labels.rows))]
        self.above = [line + self.pad if any(captions) else 0 for captions in rows]
        self.captions = rows

    def _pixels(self, points: float) -> int:
        return round(points * self.dpi / 72)

    def _widest(self, texts: Sequence[str], size: float) -> int:
        """Return the width of the widest text, which is one of those with the most characters."""
        longest = sorted(set(texts), key=len)[-4:]
        # Hinted letters are up to a few per cent wider than their outlines.
        return round(1.04 * self.dpi * max((_inches(text, size) for text in longest), default=0))

    def figure(self) -> Figure:
        """Return the sheet as a figure, each pixel of an enlarged image on a pixel of the figure."""
        from matplotlib.figure import Figure

        if max(self.across, self.down) >= _MOST_PIXELS:
            raise VqtkError(
                f"the sheet would have {self.across:,}×{self.down:,} pixels; with labels, it can have {_MOST_PIXELS:,} "
                "in each direction. Show fewer examples, or draw the plain sheet with --bare."
            )
        # A hundredth of a pixel more, so that no rounding takes a pixel away.
        figure = Figure(figsize=((self.across + 0.01) / self.dpi, (self.down + 0.01) / self.dpi), dpi=self.dpi)
        self._draw_images(figure)
        if self.title:
            self._write(figure, self.title, self.pad, self.pad, size=_TITLE_PT, ha="left", va="top", linespacing=1.15)
        self._write_labels(figure)
        if isinstance(self.sheet, MosaicSheet):
            for note in self.sheet.notes:
                left, middle = self.left + self.scale * note.left, self.top + self.scale * note.middle
                size = note.size * self.scale * 72 / self.dpi * _SLIMMER
                self._write(figure, note.text, left, middle, size=size, ha="left", va="center")
        return figure

    def _draw_images(self, figure: Figure) -> None:
        sheet = self.sheet.unwritten if isinstance(self.sheet, MosaicSheet) else self.sheet.pixels
        pixels = (rearrange(sheet, "c h w -> h w c").numpy() * 255).round().astype(np.uint8)
        pixels = pixels.repeat(self.scale, 0).repeat(self.scale, 1)
        if any(self.above):
            parts: list[np.ndarray] = []
            for row, room in enumerate(self.above):
                empty = np.full((room, *pixels.shape[1:]), 255, dtype=np.uint8)
                parts += [empty, pixels[row * self.row : (row + 1) * self.row]]
            pixels = np.concatenate([*parts, pixels[len(self.above) * self.row :]])
        height, width = pixels.shape[:2]
        bottom = self.down - self.top - height
        axes = figure.add_axes(
            (self.left / self.across, bottom / self.down, width / self.across, height / self.down), frameon=False
        )
        axes.set_axis_off()
        axes.imshow(pixels, aspect="auto", interpolation="none")

    def _write_labels(self, figure: Figure) -> None:
        labels, gap, top = self.labels, self.scale * GAP, self.top
        middles = [self.left + gap + (column + 0.5) * self.column - gap / 2 for column in range(self._columns())]
        if labels.columns:
            turned = {"rotation": 90} if self.turned else {}
            for middle, label in zip(middles, labels.columns, strict=True):
                self._write(figure, label, middle, top, size=self.column_pt, ha="center", va="bottom", **turned)
            self._write(figure, labels.corner, self.left - self.pad, top, size=self.row_pt, ha="right", va="bottom")
        for row, label in enumerate(labels.rows):
            top += self.above[row]
            if self.above[row]:
                for middle, caption in zip(middles, self.captions[row], strict=True):
                    self._write(figure, caption, middle, top, size=self.column_pt, ha="center", va="bottom")
                self._write(figure, labels.corner, self.left - self.pad, top, size=self.row_pt, ha="right", va="bottom")
            middle = top + gap + (self.row - gap) / 2
            self._write(figure, label, self.left - self.pad, middle, size=self.row_pt, ha="right", va="center")
            top += self.row

    def _columns(self) -> int:
        return (self.sheet.pixels.shape[2] - GAP) // (self.labels.image[1] + GAP)

    def _write(self, figure: Figure, text: str, x: float, y: float, *, size: float, **how: Any) -> None:
        if text:
            figure.text(x / self.across, 1 - y / self.down, text, fontsize=size, color=_INK, parse_math=False, **how)


def _inches(text: str, size: float) -> float:
    """Return the width of a line of text in a font size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return (
        float(text_to_path.get_text_width_height_descent(text, FontProperties(family=[_FONT], size=size), False)[0])
        / 72
    )


def _wrapped(text: str, inches: float) -> str:
    """Return a title on as many lines as it needs; what cannot be printed is left out."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    letters = max(8, int(len(printable) * inches / max(0.01, _inches(printable, _TITLE_PT))))
    return "\n".join(wrap(printable, letters))
