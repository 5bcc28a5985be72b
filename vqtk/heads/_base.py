"""The base class of heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqtk.nn.stage import OptionRows, chosen_of
from vqtk.nn.types import Size


@dataclass(frozen=True)
class Factors:
    """The deltas of all options as matrix products: they can be scored without being computed.

    The delta of option k is `mixtures[k] @ maps[n]`, q rows of p values.

    Arguments:
        mixtures: (k, q, d).
        maps: (n, d, p).
        arranged: values (…, out_channels, *size) → (…, q, p), in the order of the product.
        restored: the inverse of `arranged`.
    """

    mixtures: Tensor
    maps: Tensor
    arranged: Callable[[Tensor], Tensor]
    restored: Callable[[Tensor], Tensor]

    @staticmethod
    def pay(n: int, k: int, q: int, d: int, p: int) -> bool:
        """Return whether `products` take less than half the work of the deltas."""
        of_each, of_all = d * (d + q) * (p + k) + k * d * p, k * q * d * (d + p)
        return 2 * (n * of_each + of_all) < n * k * q * d * p

    def products(self, residual: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the product of every option's delta with the residual, and its squared norm, (n, k) both.

        With mixture A, maps M, residual R and bias B, ⟨R, AM + B⟩ = ⟨A, RMᵀ⟩ + ⟨R, B⟩, and ‖AM + B‖² = ⟨AᵀA, MMᵀ⟩ +
        2 ⟨AᵀB, M⟩ + ‖B‖²: one factor depends on the option, the other on the example.

        Arguments:
            residual: (n, out_channels, *size).
            bias: (k, out_channels, *size), added to the deltas; None without one.
        """
        with nullcontext() if self.maps.is_meta else torch.autocast(self.maps.device.type, enabled=False):
            mixtures, maps, rest = self.mixtures, self.maps.to(self.mixtures.dtype), self.arranged(residual)
            cross = (rest @ maps.mT).flatten(1) @ mixtures.flatten(1).mT
            squares = (maps @ maps.mT).flatten(1) @ (mixtures.mT @ mixtures).flatten(1).mT
            if bias is not None:
                added = self.arranged(bias)
                cross = cross + rest.flatten(1) @ added.flatten(1).mT
                squares = squares + 2 * maps.flatten(1) @ (mixtures.mT @ added).flatten(1).mT
                squares = squares + added.flatten(1).square().sum(1)
            return cross, squares

    def chosen(self, codes: Tensor) -> Tensor:
        """Return the chosen deltas, codes (n,) → (n, out_channels, *size), without a bias."""
        return self.restored(self.mixtures[codes] @ self.maps)


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

    def has_factors(self, n: int) -> bool:
        """Return whether `factors` gives the deltas for n examples, and scoring by them takes less work."""
        return False

    def factors(self, features: Tensor, stage: int, scale: Tensor) -> Factors:
        """Return all deltas, multiplied by a scalar tensor, as factors.

        A head whose options differ in a linear map of the same features should have them.
        """
        raise NotImplementedError

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the rows of each option in the parameters that end the computation of a stage's deltas.

        `revive` copies them from option to option, and `zero_output` starts them at zero; a head without them cannot be
        used with either.
        """
        return []
