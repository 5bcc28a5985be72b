"""Bernoulli negative log-likelihood of binary values."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.losses._base import Loss
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("bernoulli", data={"name": "modelnet", "size": 4})
class Bernoulli(Loss):
    """Negative log-likelihood of values in {0, 1}, in nats, averaged over the values of an example.

    Shapes: reconstruction as the data, (c, *size): logits.
    Raises: ShapeError if training units do not lie in [0, 1].
    Source: VQ-DRAW, ModelNet experiment.
    """

    normalised = True

    def __init__(self, data: DataSpec):
        if data.kind in ("text", "points", "signals") or (data.mean, data.std) != (0.0, 1.0):
            raise ShapeError(
                f"bernoulli scores values from 0 to 1, and these data are {data.kind} with another range. "
                "Use mse or gaussian for images, points and signals, categorical for text."
            )
        channels, *size = data.shape
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid: softplus(x) - x·target is the negative log-likelihood under logits x."""
        return (F.softplus(proposals) - proposals * target[:, None]).flatten(2).mean(2)

    def show(self, x: Tensor) -> Tensor:
        """Return the probabilities of 1."""
        return torch.sigmoid(x)
