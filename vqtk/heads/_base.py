"""The base class of heads."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqtk.nn.stage import OptionRows, chosen_of
from vqtk.nn.types import Size


class Head(nn.Module, ABC):
    """A map from features to the deltas of every option, or of chosen ones; `size` is the size of the deltas."""

    def __init__(self, size: Size):
        super().__init__()
        self.size = size

    @abstractmethod
    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas: features (n, in_width, *in_size) → (n, k, out_channels, *size)."""

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by a scalar tensor.

        A head that ends in a convolution should override this and scale the filters instead, which saves a pass over
        all deltas, forwards and backwards.
        """
        return self(features, stage) * scale

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas: codes (n,) in [0, k) → (n, out_channels, *size), or (n, m) → (n, m, …).

        A head should override this if it can compute them without the others, because decoding uses it.
        """
        return chosen_of(self(features, stage), codes)

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the rows of each option in the parameters that end the computation of a stage's deltas.

        `revive` copies them from option to option, and `zero_output` starts them at zero; a head without them cannot be
        used with either.
        """
        return []
