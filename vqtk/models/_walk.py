"""What a walk through the stages leaves behind, and the numbers that training makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqtk.nn.stage import State


@dataclass(frozen=True)
class Walk:
    """What a walk through the stages leaves behind.

    `grid` (n, s, k) holds every option's loss, `codes` (n, s) the path taken; `reconstruction` (n, *shape) and `state`
    are those after the last stage. `choice`, `final` and `all` are means over the batch in units of the loss, by each
    stage's best option, whichever path was taken. `sampled` (n, s, m) are the losses of options that were drawn: where
    there are any, they and each stage's best option alone have a gradient.
    """

    grid: Tensor
    codes: Tensor
    reconstruction: Tensor
    state: State = None
    sampled: Tensor | None = None

    @property
    def choice(self) -> Tensor:
        """The smallest loss of each stage, averaged over the stages."""
        return self.grid.min(2).values.mean()

    @property
    def final(self) -> Tensor:
        """The smallest loss of the last stage."""
        return self.grid[:, -1].min(1).values.mean()

    @property
    def all(self) -> Tensor:
        """The loss of every option, averaged over options and stages."""
        return self.grid.mean()

    @property
    def best(self) -> Tensor:
        """The code of each stage's best option (n, s)."""
        return self.grid.detach().argmin(2)


def usage_of(codes: Tensor, options: int) -> Tensor:
    """Return how often each option was chosen at each stage: codes (n, s) → (s, k), int64.

    Unlike `bincount`, which looks for the largest value, it waits for no device.
    """
    counts = torch.zeros(codes.shape[1], options, dtype=torch.int64, device=codes.device)
    return counts.scatter_add_(1, codes.mT, torch.ones_like(codes.mT))
