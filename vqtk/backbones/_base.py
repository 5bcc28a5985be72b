"""What a backbone with an upward half is; any other backbone is a stage module."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqtk.nn.stage import StageModule
from vqtk.nn.types import Size

Skips = tuple[Tensor, ...]
"""What the downward half leaves for the upward half, finest first: each (n, width, *size) of its level."""


class Rise(nn.Module, ABC):
    """The upward half of a backbone: features and skips to finer features.

    `width` and `size` say what it yields.
    """

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.width = width
        self.size = size

    @abstractmethod
    def forward(self, features: Tensor, skips: Skips, stage: int) -> Tensor:
        """Return finer features: (n, in_width, *in_size) and the skips → (n, width, *size)."""


class SkipBackbone(StageModule, ABC):
    """A backbone whose upward half stands between the blocks and the head: `composed` builds and calls both.

    `width` and `size` are those of what the blocks receive; applied alone, it yields that without the skips.
    """

    @abstractmethod
    def descend(self, x: Tensor, stage: int) -> tuple[Tensor, Skips]:
        """Return the features for the blocks (n, width, *size), and the skips for the upward half."""

    @abstractmethod
    def rise(self, in_width: int, size: Size, stages: int) -> Rise:
        """Return the upward half, for the width and size of what the blocks yield."""

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the downward half alone."""
        return self.descend(features, stage)[0]
