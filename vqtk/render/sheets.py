"""Sheets of images: lay them out, write them to PNG files, and show them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from rich.color import Color
from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from torch import Tensor
from torch.nn.functional import interpolate

from vqtk.errors import VqtkError
from vqtk.files import replacing

if TYPE_CHECKING:
    from vqtk.render.labelled import Labels
    from vqtk.render.points import Sound


def half_blocks(image: Image.Image, columns: int) -> Segments:
    """Return an RGB image as half blocks for rich to print, scaled down to at most `columns` columns."""
    width = min(image.width, columns)
    height = max(2, round(image.height * width / image.width)) // 2 * 2
    small = image.resize((width, height), Image.Resampling.BOX)
    segments = []
    for top in range(0, height, 2):
        for x in range(width):
            upper, lower = (Color.from_rgb(*small.getpixel((x, y))) for y in (top, top + 1))  # type: ignore[misc]
            segments.append(Segment("▀", Style(color=upper, bgcolor=lower)))
        segments.append(Segment.line())
    return Segments(segments)


GAP = 2
_PAPER = 1.0
_FRAME = (0.89, 0.29, 0.13)


def grid(pictures: Tensor, columns: int, *, framed: set[int] | frozenset[int] = frozenset()) -> Tensor:
    """Lay images (n, c, h, w) out in rows → (3, height, width) in [0, 1]; `framed` ones get a coloured border."""
    pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
    n, _, h, w = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.full((3, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), _PAPER)
    for index, picture in enumerate(pictures):
        top = GAP + (index // columns) * (h + GAP)
        left = GAP + (index % columns) * (w + GAP)
        if index in framed:
            colour = torch.tensor(_FRAME)[:, None, None]
            sheet[:, top - GAP : top + h + GAP, left - GAP : left + w + GAP] = colour
        sheet[:, top : top + h, left : left + w] = picture
    return sheet


def stage_strip(targets: Tensor, after: Tensor) -> Tensor:
    """Lay out a column for each example and a row for each stage, after (n, s, c, h, w); targets (n, c, h, w) last."""
    rows = rearrange(torch.cat([after, targets[:, None]], 1), "n s c h w -> (s n) c h w")
    return grid(rows, columns=len(targets))


def pairs(targets: Tensor, reconstructions: Tensor, columns: int) -> Tensor:
    """Lay out targets with their reconstructions below them, in pairs of rows."""
    rows, columns = [], min(columns, len(targets))
    for start in range(0, len(targets), columns):
        rows += [_filled(part[start : start + columns], columns) for part in (targets, reconstructions)]
    return grid(torch.cat(rows), columns=columns)


def _filled(row: Tensor, columns: int) -> Tensor:
    return torch.cat([row, torch.full((columns - len(row), *row.shape[1:]), _PAPER)])


_EASILY_SEEN = 640


class Sheet(Protocol):
    """The output of a command that draws: a sheet of images, or lines of text."""

    @property
    def suffix(self) -> str:
        """The suffix of its file: `.png` or `.txt`."""

    @property
    def plain(self) -> str | None:
        """The text of a sheet of text; None for images."""

    def write(self, path: Path) -> None:
        """Write the sheet, replacing the file atomically. Raises: VqtkError if it cannot be written."""

    def drawn(self, columns: int) -> RenderableType:
        """Return the sheet for rich to print in a terminal with that many columns."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return what IPython shows."""


@dataclass(frozen=True)
class ImageSheet:
    """An image (3, h, w) in [0, 1], in words what it shows; of sounds what is heard, and what labels it may have."""

    pixels: Tensor
    alt: str
    sound: Sound | None = None
    labels: Labels | None = None
    suffix = ".png"
    plain = None

    def image(self, *, scale: int = 1) -> Image.Image:
        """Return the image with each pixel enlarged to `scale` × `scale`."""
        pixels = (rearrange(self.pixels, "c h w -> h w c").numpy() * 255).round().astype(np.uint8)
        image = Image.fromarray(pixels)
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)

    @property
    def scale(self) -> int:
        """The factor by which a file is enlarged, so that small images can be seen."""
        return max(1, _EASILY_SEEN // self.pixels.shape[2])

    def write(self, path: Path) -> None:
        """Write the image as PNG, enlarged, and the sound beside it as .wav. Raises: VqtkError if that fails."""
        try:
            with replacing(path) as temporary:
                self.image(scale=self.scale).save(temporary, format="PNG")
            if self.sound:
                self.sound.write(path.with_suffix(".wav"))
        except OSError as error:
            raise VqtkError(f"{path}: the image cannot be written ({error}). Choose another path with --out.") from None

    def drawn(self, columns: int) -> RenderableType:
        """Return the image as half blocks, scaled down to that many columns."""
        return half_blocks(self.image(), columns)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return what IPython shows: the image, enlarged."""
        written = BytesIO()
        self.image(scale=self.scale).save(written, format="PNG")
        return {"image/png": written.getvalue(), "text/plain": self.alt}


_GAP = 2
_PADDING = 6
_BETWEEN = 8
_HEAD = 2
_FEW = 16
_LABEL, _TITLE = 16, 40
_WIDEST, _NARROWEST, _LARGEST = 3600, 900, 4
_TREE_PAPER, _TREE_FRAME, _INK = "#ffffff", "#aab7c1", "#34495e"


@dataclass(frozen=True)
class Note:
    """A number in a tree: its text, where it begins and its middle in pixels from the upper left, and its height."""

    text: str
    left: int
    middle: int
    size: int


@dataclass(frozen=True, kw_only=True)
class MosaicSheet(ImageSheet):
    """A tree: its image without numbers (3, h, w), and the numbers."""

    unwritten: Tensor
    notes: Sequence[Note]


def mosaic(
    shown: Sequence[Tensor], codes: Sequence[Sequence[Sequence[int]]], taken: Sequence[Tensor], *, alt: str
) -> MosaicSheet:
    """Return a tree as one image: nested boxes, each headed by its node's image, twice as large, and its option.

    The root of a whole tree has no image. Images are enlarged or reduced so that the whole can be seen.

    Arguments:
        shown: for each level from the root on, the images (n, c, h, w) in [0, 1], in the order of their parents.
        codes: for each level, the codes of its nodes.
        taken: for each level, which places (n,) hold a node; the others stay empty.
        alt: what the tree shows, in words.
    """
    side = shown[0].shape[3]
    columns = ceil(sqrt(len(shown[1])))
    across = columns ** (len(shown) - 1)
    resized = [_resized(level, min(_WIDEST // across, side * _enlarged(across * side))) for level in shown]
    page = _Page([[_image(picture) for picture in level] for level in resized], codes, taken, columns)
    height, width = page.size(0)
    canvas = Image.new("RGB", (width, height), _TREE_PAPER)
    page.draw(canvas, level=0, node=0, top=0, left=0)
    unwritten = _pixels(canvas)
    for note in page.notes:
        place = (note.left, note.middle)
        ImageDraw.Draw(canvas).text(place, note.text, fill=_INK, font=_font(note.size), anchor="lm")
    return MosaicSheet(_pixels(canvas), alt, unwritten=unwritten, notes=page.notes)


def _pixels(canvas: Image.Image) -> Tensor:
    return rearrange(torch.from_numpy(np.array(canvas)), "h w c -> c h w").float() / 255


@dataclass(frozen=True)
class _Page:
    """Images and codes by level, which of them are taken, the number of images in a row; and the numbers to write."""

    pictures: list[list[Image.Image]]
    codes: Sequence[Sequence[Sequence[int]]]
    taken: Sequence[Tensor]
    columns: int
    notes: list[Note] = field(default_factory=list)

    @property
    def leaves(self) -> int:
        return len(self.pictures) - 1

    @property
    def children(self) -> int:
        return len(self.pictures[1])

    @property
    def numbered(self) -> bool:
        """Whether the images of the last level show their options: there is room, or they are not all options."""
        return self.leaves == 1 or self.children <= _FEW

    @property
    def title(self) -> int:
        """The font size of the head of a box."""
        return max(_LABEL, min(_TITLE, _HEAD * self.pictures[0][0].height // 2))

    def head_width(self, level: int) -> int:
        """Return the width of a node's head, above its children: its image and its option."""
        code = self.codes[level][0]
        widest = "8" * (2 * len(code) + len(code) - 1 if level == 0 else 3)
        return int(_HEAD * self.pictures[0][0].width + _PADDING + _font(self.title).getlength(widest)) if code else 0

    def head(self, level: int) -> int:
        """Return the height of a node's head, above its children."""
        return _HEAD * self.pictures[0][0].height + _PADDING if self.codes[level][0] else 0

    def size(self, level: int) -> tuple[int, int]:
        """Return the height and width of a node with all of its descendants."""
        if level == self.leaves:
            picture = self.pictures[0][0]
            return picture.height + (_LABEL if self.numbered else 0), picture.width
        height, width = self.size(level + 1)
        gap, rows = self.gap(level), -(-self.children // self.columns)
        inner = rows * (height + gap) - gap, self.columns * (width + gap) - gap
        return inner[0] + 2 * _PADDING + self.head(level), max(inner[1], self.head_width(level)) + 2 * _PADDING

    def gap(self, level: int) -> int:
        """Return the distance between the children of a node on that level."""
        return _GAP if level + 1 == self.leaves else _BETWEEN

    def draw(self, canvas: Image.Image, *, level: int, node: int, top: int, left: int) -> None:
        """Draw a node and all of its descendants."""
        picture, code = self.pictures[level][node], self.codes[level][node]
        if level == self.leaves:
            canvas.paste(picture, (left, top))
            if self.numbered:
                self.notes.append(Note(str(code[-1]), left, top + picture.height + _LABEL // 2, _LABEL - 4))
            return
        if code:
            self._draw_head(canvas, picture, code if level == 0 else code[-1:], top + _PADDING, left + _PADDING)
        height, width = self.size(level + 1)
        for child in range(self.children):
            if not self.taken[level + 1][node * self.children + child]:
                continue
            row, column = divmod(child, self.columns)
            y = top + _PADDING + self.head(level) + row * (height + self.gap(level))
            x = left + _PADDING + column * (width + self.gap(level))
            if level + 1 < self.leaves:
                frame = (x, y, x + width - 1, y + height - 1)
                ImageDraw.Draw(canvas).rectangle(frame, outline=_TREE_FRAME, width=2)
            self.draw(canvas, level=level + 1, node=node * self.children + child, top=y, left=x)

    def _draw_head(self, canvas: Image.Image, picture: Image.Image, code: Sequence[int], top: int, left: int) -> None:
        large = picture.resize((_HEAD * picture.width, _HEAD * picture.height), Image.Resampling.NEAREST)
        canvas.paste(large, (left, top))
        middle = top + large.height // 2
        self.notes.append(Note(",".join(map(str, code)), left + large.width + _PADDING, middle, self.title))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _enlarged(width: int) -> int:
    return max(1, min(_LARGEST, _NARROWEST // width))


def _resized(pictures: Tensor, width: int) -> Tensor:
    """Return images (n, c, h, w) resized to a width: enlarged by repeating pixels, or interpolated."""
    old = pictures.shape[3]
    if width % old == 0:
        return pictures.repeat_interleave(width // old, 2).repeat_interleave(width // old, 3)
    size = (max(1, round(pictures.shape[2] * width / old)), width)
    return interpolate(pictures, size=size, mode="bilinear", antialias=True)


def _image(picture: Tensor) -> Image.Image:
    pixels = (picture.expand(3, -1, -1).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(rearrange(pixels, "c h w -> h w c").numpy())
