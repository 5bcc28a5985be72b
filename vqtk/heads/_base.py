"""The base class of heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

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
        """Return whether `cross` and `squares` take less than half the work of the deltas."""
        if isinstance(n, torch.SymInt):  # An exported program takes any number of examples, which must not branch.
            return False
        of_each, of_all = d * (d + q) * (p + k) + k * d * p, k * q * d * (d + p)
        return 2 * (n * of_each + of_all) < n * k * q * d * p

    def cross(self, residual: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product of every option's delta with the residual, (n, k).

        With mixture A, maps M, residual R and bias B it is ⟨R, AM + B⟩ = ⟨A, RMᵀ⟩ + ⟨R, B⟩: one factor depends on the
        option, the other on the example.

        Arguments:
            residual: (n, out_channels, *size).
            bias: (k, out_channels, *size), added to the deltas; None without one.
        """
        with _in_full_precision(self.maps):
            rest = self.arranged(residual)
            cross = (rest @ self.maps.to(rest.dtype).mT).flatten(1) @ self.mixtures.flatten(1).mT
            return cross if bias is None else cross + rest.flatten(1) @ self.arranged(bias).flatten(1).mT

    def squares(self, bias: Tensor | None) -> Tensor:
        """Return the squared norm of every option's delta, (n, k): ‖AM + B‖² = ⟨AᵀA, MMᵀ⟩ + 2 ⟨AᵀB, M⟩ + ‖B‖²."""
        with _in_full_precision(self.maps):
            mixtures, maps = self.mixtures, self.maps.to(self.mixtures.dtype)
            squares = (maps @ maps.mT).flatten(1) @ (mixtures.mT @ mixtures).flatten(1).mT
            if bias is None:
                return squares
            added = self.arranged(bias)
            linear = maps.flatten(1) @ (mixtures.mT @ added).flatten(1).mT
            return squares + 2 * linear + added.flatten(1).square().sum(1)

    def chosen(self, codes: Tensor) -> Tensor:
        """Return the chosen deltas, codes (n,) → (n, out_channels, *size), without a bias."""
        return self.restored(self.mixtures[codes] @ self.maps)


def _in_full_precision(value: Tensor) -> AbstractContextManager[Any]:
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


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
