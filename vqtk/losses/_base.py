"""The base class of stage-selection losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vqtk.nn.types import DataSpec, Size


class Loss(nn.Module, ABC):
    """A reconstruction loss of every option, and the parameterisation of the reconstruction that it scores.

    A subclass sets `normalised` if the loss is a negative log-likelihood, in nats per value, of a distribution over the
    possible data, and `quadratic` if it has `grid_of_products`.

    Arguments:
        data: what the examples are.
        shape: the shape of a reconstruction.
        channels: the number of channels of a reconstruction as a network's input.
        out_channels: the number of channels of the changes as a network's output.
        size: the spatial size of both.
    """

    normalised: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False

    def __init__(self, data: DataSpec, *, shape: Size, channels: int, out_channels: int, size: Size):
        super().__init__()
        self.data = data
        self.shape = shape
        self.channels = channels
        self.out_channels = out_channels
        self.size = size

    @abstractmethod
    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid: proposals (n, k, *shape) and target (n, *data shape) → (n, k), means over values."""

    def grid(self, x: Tensor, deltas: Tensor, target: Tensor) -> Tensor:
        """Return the grid to choose by, (n, k); training differentiates only what `take` returns.

        Arguments:
            x: (n, *shape), or (1, *shape) if all examples have the same reconstruction.
            deltas: (n, k, *shape), or (1, k, *shape) if they are the same for all examples.
            target: (n, *data shape).
        """
        proposals = x[:, None] + deltas
        return self(proposals.expand(target.shape[0], *proposals.shape[1:]), target)

    def take(self, x: Tensor, deltas: Tensor, target: Tensor, grid: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grid (n, k) and the reconstruction (n, *shape) chosen by the codes (n,), with their gradients.

        A loss overrides this if it can compute the gradient of the deltas in one pass, for the grid and the chosen
        option together. Arguments as in `grid`, with its result and the codes.
        """
        n = codes.shape[0]
        return grid, x + (
            deltas[torch.arange(n, device=codes.device), codes] if deltas.shape[0] == n else deltas[0, codes]
        )

    def grid_of_products(self, residual: Tensor, cross: Tensor, squares: Tensor) -> Tensor:
        """Return the grid of a loss that is `quadratic`, from products of the deltas instead of the deltas.

        Arguments:
            residual: the result of `residual` (n, *shape).
            cross: of every option, the sum of its delta's products with the residual (n, k).
            squares: the sum of its squares (n, k), or (k,) if the deltas are the same for all examples.
        """
        raise NotImplementedError

    def residual(self, x: Tensor, target: Tensor) -> Tensor | None:
        """Return the change (n, *shape) that would make reconstructions (n, *shape) equal to the target, as a delta.

        None if reconstructions and data differ in kind, such as logits and tokens.
        """
        return None

    def to_channels(self, x: Tensor) -> Tensor:
        """Return reconstructions as a network's input: (n, *shape) → (n, channels, *size)."""
        return x

    def from_channels(self, deltas: Tensor) -> Tensor:
        """Return a network's output as changes of reconstructions: (…, out_channels, *size) → (…, *shape)."""
        return deltas

    def show(self, x: Tensor) -> Tensor:
        """Return reconstructions as data, in training units: (n, *shape) → (n, *data shape)."""
        return x
