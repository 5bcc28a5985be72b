"""Selection that explores."""

import torch
from torch import Tensor

from vqtk.nn.types import Fraction
from vqtk.registry import selectors
from vqtk.selectors._base import Selector


@selectors.register("epsilon", example={"epsilon": 0.5})
class Epsilon(Selector):
    """With probability `epsilon` an item takes a random option; otherwise that of the smallest loss.

    Shapes: grid (n, k), draws (n,): an option, or -1 for the best one → codes (n,) in [0, k).
    """

    def __init__(self, *, epsilon: Fraction = 0.01):
        self.epsilon = epsilon

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return the options that are taken at random, and -1 elsewhere: (n, stages)."""
        explores = torch.rand(n, stages, generator=generator) < self.epsilon
        return torch.where(explores, torch.randint(options, (n, stages), generator=generator), -1)

    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Select."""
        best = grid.argmin(1)
        return best if draws is None else torch.where(draws < 0, best, draws)
