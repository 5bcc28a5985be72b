"""What a walk through the stages leaves behind, and the training quantities of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Walk:
    """What one walk through the stages leaves behind.

    `grid` (n, s, k) holds every option's loss, `codes` (n, s) the path taken, `reconstruction` is (n, *shape).
    """

    grid: Tensor
    codes: Tensor
    reconstruction: Tensor

    def quantities(self) -> Quantities:
        """Return the training quantities, by each stage's best option, whichever path was taken."""
        best = self.grid.min(2).values
        usage = torch.bincount(self.grid.detach().argmin(2).flatten(), minlength=self.grid.shape[2])
        frequency = usage / usage.sum()
        return Quantities(
            choice=best.mean(),
            final=best[:, -1].mean(),
            all=self.grid.mean(),
            entropy_pooled_nats=torch.special.entr(frequency).sum(),
            used=(usage > 0).sum(),
        )

    def usage(self) -> Tensor:
        """Return how often each option was the best: (s, k)."""
        best = self.grid.detach().argmin(2)
        return nn.functional.one_hot(best, self.grid.shape[2]).sum(0)


@dataclass(frozen=True)
class Quantities:
    """Scalars of one batch: the losses in units of the loss; entropy of all stages' codes pooled; distinct codes."""

    choice: Tensor
    final: Tensor
    all: Tensor
    entropy_pooled_nats: Tensor
    used: Tensor

    def objective(self, *, choice: float = 1.0, all: float = 0.01, final: float = 0.0) -> Tensor:
        """Return what training minimises."""
        return choice * self.choice + all * self.all + final * self.final
