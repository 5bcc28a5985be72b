"""Gaussian negative log-likelihood with a learned std for every value."""

import math

import torch
from einops import rearrange
from torch import Tensor

from vqtk.losses._base import Loss
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("gaussian")
class Gaussian(Loss):
    """Negative log density of a Gaussian for every value, in nats, averaged over the values of an example.

    A negative log density of undequantised values is unbounded below, so this loss gives no bound on a likelihood.

    Shapes: reconstruction (c, *size, 2): a mean and a log standard deviation for every value.
    Source: VQ-DRAW, the Gaussian MNIST experiment.
    """

    def __init__(self, data: DataSpec):
        channels, *size = data.shape
        super().__init__(
            data,
            shape=(*data.shape, 2),
            channels=2 * channels,
            out_channels=2 * channels,
            size=tuple(size),
        )

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid."""
        mean, log_std = proposals.unbind(-1)
        z = (target[:, None] - mean) * torch.exp(-log_std)
        nats = 0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)
        return nats.flatten(2).mean(2)

    def to_channels(self, x: Tensor) -> Tensor:
        """Return the means and the standard deviations, concatenated."""
        return torch.cat([x[..., 0], x[..., 1].exp()], dim=1)

    def from_channels(self, deltas: Tensor) -> Tensor:
        """Return each channel's pair as a last axis."""
        channels_axis = deltas.dim() - len(self.size) - 1
        pairs = deltas.unflatten(channels_axis, (self.data.shape[0], 2))
        return pairs.movedim(channels_axis + 1, -1)

    def show(self, x: Tensor) -> Tensor:
        """Return the means."""
        return rearrange(x, "n c ... p -> p n c ...", p=2)[0]
