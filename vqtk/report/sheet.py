"""What a command shows: a sheet, to be written or drawn in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from einops import rearrange
from PIL import Image
from rich.console import RenderableType
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.io.atomic import replacing
from vqtk.report.terminal import half_blocks

_EASILY_SEEN = 640


class Sheet(Protocol):
    """What a command shows. `plain` is its content as text, where it is text."""

    @property
    def suffix(self) -> str:
        """The suffix of the file that it is written to: `.png` or `.txt`."""

    @property
    def plain(self) -> str | None:
        """The text of a sheet of text, None for pictures."""

    def write(self, path: Path) -> None:
        """Write it, replacing the file whole. Raises: VqtkError if it cannot be written."""

    def drawn(self, columns: int) -> RenderableType:
        """Return it for rich to print in a terminal of so many columns."""


@dataclass(frozen=True)
class ImageSheet:
    """A picture (3, h, w) in [0, 1], and in words what it shows."""

    pixels: Tensor
    alt: str
    suffix = ".png"
    plain = None

    def image(self, *, scale: int = 1) -> Image.Image:
        """Return the picture, each pixel `scale` squared."""
        pixels = (rearrange(self.pixels, "c h w -> h w c").numpy() * 255).round().astype(np.uint8)
        image = Image.fromarray(pixels)
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)

    @property
    def scale(self) -> int:
        """How many times it is enlarged so that it is easily seen."""
        return max(1, _EASILY_SEEN // self.pixels.shape[2])

    def write(self, path: Path) -> None:
        """Write it as PNG, enlarged. Raises: VqtkError if it cannot be written."""
        try:
            with replacing(path) as temporary:
                self.image(scale=self.scale).save(temporary, format="PNG")
        except OSError as error:
            raise VqtkError(f"{path}: the picture cannot be written ({error}). Choose another path with -o.") from None

    def drawn(self, columns: int) -> RenderableType:
        """Return it as half blocks, scaled down to so many columns."""
        return half_blocks(self.image(), columns)
