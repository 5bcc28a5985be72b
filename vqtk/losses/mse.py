"""Mean squared error, the originals' loss on images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqtk.losses._base import Loss, Select
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("mse")
class MSE(Loss):
    """Mean squared error over the values of an item, in training units squared.

    Shapes: reconstruction as the data, (c, *size).
    Source: VQ-DRAW, image experiments.
    """

    def __init__(self, data: DataSpec):
        channels, *size = data.shape
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid, by its definition."""
        return (proposals - target[:, None]).square().flatten(2).mean(2)

    def select(self, x: Tensor, deltas: Tensor, target: Tensor, selector: Select) -> tuple[Tensor, Tensor, Tensor]:
        """Return grid, codes and new reconstruction without materialising the proposals."""
        return _Select.apply(x, deltas, target, selector)


class _Select(torch.autograd.Function):
    """|r + d|² = |r|² + 2 r·d + |d|² for residual r = x - target: two reductions over the deltas, no copy.

    The backward pass writes the deltas' gradient once, the selected option's part included.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, deltas: Tensor, target: Tensor, selector: Select) -> tuple[Tensor, Tensor, Tensor]:
        residual, flat = (x - target).flatten(1), deltas.flatten(2)
        # A product under autocast would lose the digits by which the options differ.
        with nullcontext() if deltas.is_meta else torch.autocast(deltas.device.type, enabled=False):
            cross = torch.bmm(flat, residual[:, :, None])[:, :, 0]
        grid = torch.linalg.vector_norm(flat, dim=2).square()
        grid = grid.add_(cross, alpha=2).add_(residual.square().sum(1, keepdim=True)).div_(flat.shape[2])
        codes = selector(grid)
        ctx.mark_non_differentiable(codes)
        ctx.save_for_backward(residual, deltas, codes)
        return grid, codes, x + deltas[torch.arange(len(codes), device=codes.device), codes]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_grid: Tensor, _: Tensor, d_new: Tensor) -> tuple[Tensor | None, ...]:
        residual, deltas, codes = ctx.saved_tensors
        flat = deltas.flatten(2)
        weight = d_grid * (2 / flat.shape[2])
        d_x = d_deltas = None
        if ctx.needs_input_grad[0]:
            own = (weight.sum(1, keepdim=True) * residual)[:, None]
            d_x = torch.baddbmm(own, weight[:, None], flat).reshape(d_new.shape) + d_new
        if ctx.needs_input_grad[1]:
            d_deltas = (flat + residual[:, None]).mul_(weight[:, :, None]).reshape(deltas.shape)
            d_deltas[torch.arange(len(codes), device=codes.device), codes] += d_new
        return d_x, d_deltas, None, None
