"""Categorical negative log-likelihood of tokens."""

import torch
from einops import rearrange
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.losses._base import Loss
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("categorical", data={"name": "wikitext2", "length": 8, "vocabulary": 5}, dimensions=(1,))
class Categorical(Loss):
    """Negative log-likelihood of tokens, in nats, averaged over the tokens of an example.

    Shapes: reconstruction (length, vocabulary): logits.
    Raises: ShapeError if the data are not token indices.
    Source: VQ-DRAW, text experiment.
    """

    normalised = True

    def __init__(self, data: DataSpec):
        if data.classes is None:
            raise ShapeError(
                "categorical scores tokens, and the data are not tokens. Use mse or gaussian, or bernoulli for voxels."
            )
        (length,) = data.shape
        super().__init__(
            data,
            shape=(length, data.classes),
            channels=data.classes,
            out_channels=data.classes,
            size=(length,),
        )

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid; target (n, length) holds token indices."""
        index = target[:, None, :, None].expand(-1, proposals.shape[1], -1, -1)
        nats = proposals.logsumexp(-1) - proposals.gather(-1, index)[..., 0]
        return nats.mean(2)

    def to_channels(self, x: Tensor) -> Tensor:
        """Return the probabilities times √vocabulary, the vocabulary as channels."""
        return rearrange(torch.softmax(x, -1) * x.shape[-1] ** 0.5, "n l v -> n v l")

    def from_channels(self, deltas: Tensor) -> Tensor:
        """Return the vocabulary as the last axis."""
        return deltas.transpose(-1, -2)

    def show(self, x: Tensor) -> Tensor:
        """Return the most likely tokens."""
        return x.argmax(-1)
