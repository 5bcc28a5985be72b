"""What every stage-selection loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from vqtk.nn.types import DataSpec, Size

Select = Callable[[Tensor], Tensor]
"""Grid (n, k) → codes (n,)."""


class Loss(nn.Module, ABC):
    """A reconstruction loss of every option, and the parameterisation of the reconstruction that it scores.

    `shape` is that of one reconstruction; `channels` and `out_channels` how many channels it has as a
    network's input and as its output, of size `size`. `normalised` says whether the loss is a negative
    log-likelihood in nats per value of a distribution over what the data can be.
    """

    normalised: ClassVar[bool] = False

    def __init__(self, data: DataSpec, *, shape: Size, channels: int, out_channels: int, size: Size):
        super().__init__()
        self.data = data
        self.shape = shape
        self.channels = channels
        self.out_channels = out_channels
        self.size = size

    @abstractmethod
    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid: proposals (n, k, *shape), target (n, *data shape) → (n, k), means over values."""

    def select(self, x: Tensor, deltas: Tensor, target: Tensor, selector: Select) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grid (n, k), the selected codes (n,) and the new reconstruction (n, *shape).

        A loss that can do this from x (n, *shape) and deltas (n, k, *shape) without the proposals overrides it.
        """
        proposals = x[:, None] + deltas
        grid = self(proposals, target)
        codes = selector(grid.detach())
        return grid, codes, proposals[torch.arange(len(codes), device=codes.device), codes]

    def to_channels(self, x: Tensor) -> Tensor:
        """Return reconstructions as a network's input: (n, *shape) → (n, channels, *size)."""
        return x

    def from_channels(self, deltas: Tensor) -> Tensor:
        """Return a network's output as changes of reconstructions: (…, out_channels, *size) → (…, *shape)."""
        return deltas

    def show(self, x: Tensor) -> Tensor:
        """Return reconstructions as data, in training units: (n, *shape) → (n, *data shape)."""
        return x
