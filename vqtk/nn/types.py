"""The types of signatures: sizes, bounded numbers, and the spec of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, doc

from vqtk.errors import VqtkError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Size = tuple[int, ...]
"""The spatial size of a feature map: (length,), (h, w) or (d, h, w); () for vectors."""

Count = Annotated[int, Ge(1)]
Stages = Annotated[int, Ge(1), Le(10_000), doc("a whole number from 1 to 10,000")]
"""Bounded because modules and vectors are built for each stage."""
Options = Annotated[int, Ge(2), Le(65_536), doc("a whole number from 2 to 65,536")]
"""At least 2, since a choice among one option carries no information; bounded because each has its delta."""
Side = Annotated[int, Ge(1), Le(4_096), doc("a whole number from 1 to 4,096")]
"""The side of an image or grid; bounded because the size of an example is a power of it."""
Layers = Annotated[int, Ge(0), Le(1_000), doc("a whole number from 0 to 1,000")]
"""Bounded because modules are built for each layer."""
CountTo1000 = Annotated[int, Ge(1), Le(1_000), doc("a whole number from 1 to 1,000")]
"""A number of things that each take a file or an image."""
Drawn = Annotated[int, Ge(1), Le(10_000_000), doc("a whole number from 1 to 10,000,000")]
"""A number of examples that are drawn and held in memory."""
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Ge(0), Lt(1)]
Degrees = Annotated[float, Ge(0), Le(180)]
Slant = Annotated[float, Ge(0), Le(60)]
Betas = Annotated[list[Share], Len(2, 2), doc("a list of two numbers ≥ 0 and < 1")]
"""The decays of an optimiser's two averages."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data, and how raw examples become training units.

    Images are stored as uint8 in [0, 255]; their training units are `(pixel - mean) / std` for pixels in [0, 1]. Points
    and signals are stored in training units.

    Arguments:
        kind: the kind of data; points are vectors of any length, such as points in the plane.
        shape: the shape of an example: (channels, *size), (length,) of text, (channels, time) of signals such as
            waveforms and time series, or (values,) of points.
        classes: the size of the vocabulary if examples are token indices.
        mean: the mean of the training units, for pixels in [0, 1].
        std: their std. Of sounds, what a training unit is in samples from -1 to 1.
        rate: the samples per second of sounds, in Hz; None for other data.
        characters: the character of each token, if it is known.
    """

    kind: Literal["image", "text", "voxels", "points", "signals"]
    shape: Size
    classes: int | None = None
    mean: float = 0.0
    std: float = 1.0
    characters: str | None = None
    rate: int | None = None

    def normalise(self, raw: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return raw examples (n, *shape) in training units; token indices only become int64.

        Raises: VqtkError for images that are not whole numbers from 0 to 255, since the range of floating-point pixels
        is ambiguous.
        """
        if self.kind == "text":
            return raw.long()
        if self.kind == "image" and raw.dtype.is_floating_point:
            raise VqtkError(
                f"pixels of type {raw.dtype}: expected whole numbers from 0 to 255 (torch.uint8). For floating-point "
                f"pixels from 0 to 1, the training units are (pixels - {self.mean:g}) / {self.std:g}. Waveforms and "
                "vectors are data of the kinds signals and points."
            )
        values = raw.to(dtype or _default_dtype())
        # One multiply-add on the device: (raw / 255 - mean) / std.
        return values.mul_(1 / (255 * self.std)).sub_(self.mean / self.std) if self.kind == "image" else values

    def pixels(self, x: Tensor) -> Tensor:
        """Return training units as pixels in [0, 1], clamped; not for text, points or signals."""
        return (x * self.std + self.mean).clamp(0, 1)


def _default_dtype() -> torch.dtype:
    import torch

    return torch.get_default_dtype()
