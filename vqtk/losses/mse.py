"""Mean squared error, the originals' loss on images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqtk.losses._base import Loss
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("mse")
class MSE(Loss):
    """Mean squared error over the values of an example, in training units squared.

    Shapes: reconstruction as the data, (c, *size).
    Source: VQ-DRAW, image experiments.
    """

    quadratic = True

    def __init__(self, data: DataSpec):
        channels, *size = data.shape
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid, by its definition."""
        return (proposals - target[:, None]).square().flatten(2).mean(2)

    def residual(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the target minus the reconstruction."""
        return target - x

    def grid(self, x: Tensor, deltas: Tensor, target: Tensor) -> Tensor:
        """Return the grid from the residual r = x - target and the deltas d, as the mean of (r + d)².

        It has a gradient only if one example's deltas serve the whole batch; otherwise `take` adds the gradient. The
        deltas may have any memory layout, and a lower precision than the residual.
        """
        if deltas.shape[0] < target.shape[0]:
            # A product of two small matrices, not n × k images in memory.
            residual = self.residual(x, target)
            columns = deltas[0].flatten(1).to(residual.dtype)
            with nullcontext() if deltas.is_meta else torch.autocast(deltas.device.type, enabled=False):
                cross = residual.flatten(1) @ columns.mT
            return self.grid_of_products(residual, cross, columns.square().sum(1))
        with torch.no_grad():
            return (deltas + (x - target)[:, None]).square_().mean(tuple(range(2, deltas.dim())))

    def grid_of_products(self, residual: Tensor, cross: Tensor, squares: Tensor) -> Tensor:
        """Return the grid from (d - r)² = d² - 2 r·d + r²."""
        rows = residual.flatten(1)
        return (squares - 2 * cross + rows.square().sum(1, keepdim=True)) / rows.shape[1]

    def take(self, x: Tensor, deltas: Tensor, target: Tensor, grid: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grid and the chosen reconstruction; one backward pass over the deltas serves both."""
        if deltas.shape[0] < target.shape[0]:
            return super().take(x, deltas, target, grid, codes)
        return _Take.apply(x, deltas, target, grid.detach(), codes)


class _Take(torch.autograd.Function):
    """The grid and the chosen reconstruction, fused: the backward pass writes the gradient of the deltas once for both.

    The deltas (n, k, *shape) are the largest tensor of a stage. Autograd would keep another of their size for the
    square, and write one gradient for the grid, one for the chosen option, and their sum. Here the residual is kept
    instead, and d grid / d deltas = 2 (r + d) / values is written once; the chosen option's gradient is added in place.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, deltas: Tensor, target: Tensor, grid: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x - target, deltas, codes)
        return grid.clone(), x + deltas[torch.arange(codes.shape[0], device=codes.device), codes]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_grid: Tensor, d_new: Tensor) -> tuple[Tensor | None, ...]:
        residual, deltas, codes = ctx.saved_tensors
        weight = (d_grid * (2 / residual[0].numel())).reshape(*d_grid.shape, *[1] * (residual.dim() - 1))
        d_deltas = (deltas + residual[:, None]).mul_(weight)
        d_x = d_deltas.sum(1).add_(d_new) if ctx.needs_input_grad[0] else None
        d_deltas[torch.arange(codes.shape[0], device=codes.device), codes] += d_new
        return d_x, d_deltas.to(deltas.dtype), None, None, None
