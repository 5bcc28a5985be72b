"""What every head is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqtk.nn.stage import chosen_of
from vqtk.nn.types import Size


class Head(nn.Module, ABC):
    """A map from features to the deltas of every option, or of the chosen option alone.

    `size` is that of the deltas.
    """

    def __init__(self, size: Size):
        super().__init__()
        self.size = size

    @abstractmethod
    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas: features (n, in_width, *in_size) → (n, k, out_channels, *size)."""

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by one number, a scalar tensor.

        A head that ends in a convolution should override this and scale the filters: that spares a pass over all
        deltas, forwards and backwards.
        """
        return self(features, stage) * scale

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas: codes (n,) in [0, k) → (n, out_channels, *size), or (n, m) → (n, m, …).

        A head that can compute them without all others should override this: it is the decoder's path.
        """
        return chosen_of(self(features, stage), codes)
