"""The types that signatures are written in: sizes, bounded numbers, and what a data set says of its items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Size = tuple[int, ...]
"""The spatial sizes of a feature map: (length,), (h, w) or (d, h, w)."""

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data.

    `shape` is that of one item: (channels, *size), or (length,) for text. `classes` is the vocabulary of
    data that are token indices. Training units are `(value - mean) / std` for values in [0, 1].
    """

    kind: Literal["image", "text", "voxels"]
    shape: Size
    classes: int | None = None
    mean: float = 0.0
    std: float = 1.0
