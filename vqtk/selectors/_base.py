"""What every selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Selector(ABC):
    """Which option each item takes at a stage, in training.

    What is random is drawn beforehand, for all stages of a whole batch: so a batch may be split to save
    memory, and a stage may be computed again, without another outcome.
    """

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what n items need to explore, (n, stages, …) on the CPU; None if nothing is random.

        `progress` is the part of the training that is done, from 0 to 1.
        """
        return None

    @abstractmethod
    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Return codes (n,) in [0, k) for a grid (n, k), given this stage's draws (n, …) if there are any."""
