"""Pictures drawn in the terminal, two pixels a character."""

from __future__ import annotations

from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style


def half_blocks(image: Image.Image, columns: int) -> Segments:
    """Return an RGB image as half blocks for rich to print, scaled down to at most so many columns."""
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
