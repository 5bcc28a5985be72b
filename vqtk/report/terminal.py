"""Pictures drawn in the terminal, two pixels a character."""

from __future__ import annotations

import shutil

from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style
from torch import Tensor

from vqtk.report.grid import enlarged


def drawn(sheet: Tensor, columns: int | None = None) -> Segments:
    """Return a sheet (3, h, w) as half blocks for rich to print, scaled down to the terminal's width."""
    image = enlarged(sheet, scale=1)
    width = min(image.width, columns or shutil.get_terminal_size().columns)
    height = max(2, round(image.height * width / image.width)) // 2 * 2
    small = image.resize((width, height), Image.Resampling.BOX)
    segments = []
    for top in range(0, height, 2):
        for x in range(width):
            upper, lower = (Color.from_rgb(*small.getpixel((x, y))) for y in (top, top + 1))  # type: ignore[misc]
            segments.append(Segment("▀", Style(color=upper, bgcolor=lower)))
        segments.append(Segment.line())
    return Segments(segments)
