"""The base classes of a backbone with an upward half; any other backbone is a stage module."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqtk.nn.stage import StageModule
from vqtk.nn.types import Size

Skips = tuple[Tensor, ...]
"""The features that the downward half passes to the upward half, finest first: each (n, width, *size) of its level."""


class Rise(nn.Module, ABC):
    """The upward half of a backbone: from features and skips to finer features, of `width` channels and size `size`."""

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.width = width
        self.size = size

    @abstractmethod
    def forward(self, features: Tensor, skips: Skips, stage: int) -> Tensor:
        """Return finer features: (n, in_width, *in_size) and the skips → (n, width, *size)."""


class SkipBackbone(StageModule, ABC):
    """A backbone with an upward half between the blocks and the head; the refiner `composed` builds and calls both.

    `width` and `size` are those of the features for the blocks.
    """

    @abstractmethod
    def descend(self, x: Tensor, stage: int) -> tuple[Tensor, Skips]:
        """Return the features for the blocks (n, width, *size), and the skips for the upward half."""

    @abstractmethod
    def rise(self, in_width: int, size: Size, stages: int) -> Rise:
        """Return the upward half, given the width and size of the features after the blocks."""

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply only the downward half, without returning the skips."""
        return self.descend(features, stage)[0]
