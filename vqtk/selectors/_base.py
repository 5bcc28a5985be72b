"""The base class of selectors."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Selector(ABC):
    """Chooses the option that each example takes at a stage, in training.

    Random numbers are drawn in advance, for all stages of a whole batch: so splitting a batch to save memory, or
    recomputing a stage, does not change the result.
    """

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return the draws for n examples, (n, stages, …) on the CPU; None if nothing is random.

        `progress` is the fraction of the training that is done, from 0 to 1.
        """
        return None

    @abstractmethod
    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Return codes (n,) in [0, k) for a grid (n, k), given this stage's draws (n, …) if there are any."""
