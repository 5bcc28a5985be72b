"""The types that signatures are written in: sizes, bounded numbers, and what a data set says of its items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, doc

from vqtk.errors import VqtkError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Size = tuple[int, ...]
"""The spatial sizes of a feature map: (length,), (h, w) or (d, h, w); () of vectors."""

Count = Annotated[int, Ge(1)]
Stages = Annotated[int, Ge(1), Le(10_000), doc("a whole number from 1 to 10,000")]
"""Modules and vectors are built for each."""
Options = Annotated[int, Ge(2), Le(65_536), doc("a whole number from 2 to 65,536")]
"""A choice among one option carries no bit; deltas are computed for each."""
Side = Annotated[int, Ge(1), Le(4_096), doc("a whole number from 1 to 4,096")]
"""Of an image or a grid: every example takes a power of it."""
Layers = Annotated[int, Ge(0), Le(1_000), doc("a whole number from 0 to 1,000")]
"""Modules are built for each."""
CountTo1000 = Annotated[int, Ge(1), Le(1_000), doc("a whole number from 1 to 1,000")]
"""A number of things of which each takes a file or a picture."""
Drawn = Annotated[int, Ge(1), Le(10_000_000), doc("a whole number from 1 to 10,000,000")]
"""Examples that are drawn and held in memory."""
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data, and how raw items become training units.

    `shape` is that of one item: (channels, *size), (length,) for text, (channels, time) for signals, such as waveforms
    and series, (values,) for points: vectors of any length, such as points of the plane. `classes` is the vocabulary
    of data that are token indices, and `characters` the character of each, where it is known. Images are stored as
    uint8 in [0, 255]; training units are `(pixel - mean) / std` for pixels in [0, 1]. Points and signals are stored in
    training units.
    """

    kind: Literal["image", "text", "voxels", "points", "signals"]
    shape: Size
    classes: int | None = None
    mean: float = 0.0
    std: float = 1.0
    characters: str | None = None

    def normalise(self, raw: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return raw examples (n, *shape) in training units; token indices stay as they are, as int64.

        Raises: VqtkError for images that are not whole numbers from 0 to 255: what a floating-point pixel means cannot
        be told.
        """
        if self.kind == "text":
            return raw.long()
        if self.kind == "image" and raw.dtype.is_floating_point:
            raise VqtkError(
                f"pixels of type {raw.dtype}: expected whole numbers from 0 to 255 (torch.uint8). For floating-point "
                f"pixels from 0 to 1, the training units are (pixels - {self.mean:g}) / {self.std:g}. Other "
                "data, such as waveforms and vectors, are of the kind signals or points."
            )
        values = raw.to(dtype or _default_dtype())
        # One multiply-add on the device: (raw / 255 - mean) / std.
        return values.mul_(1 / (255 * self.std)).sub_(self.mean / self.std) if self.kind == "image" else values

    def pixels(self, x: Tensor) -> Tensor:
        """Return training units as pixels in [0, 1], clamped; not for text, points nor signals."""
        return (x * self.std + self.mean).clamp(0, 1)


def _default_dtype() -> torch.dtype:
    import torch

    return torch.get_default_dtype()
