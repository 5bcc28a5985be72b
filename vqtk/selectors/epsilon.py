"""A selector that explores."""

import torch
from torch import Tensor

from vqtk.nn.types import Fraction
from vqtk.registry import selectors
from vqtk.selectors._base import Selector


@selectors.register("epsilon", example={"epsilon": 0.5})
class Epsilon(Selector):
    """Take a random option with probability `epsilon`, and otherwise the one with the smallest loss.

    Shapes: grid (n, k), draws (n,), each an option or -1 for the best one → codes (n,) in [0, k).
    """

    def __init__(self, *, epsilon: Fraction = 0.01):
        self.epsilon = epsilon

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return the random options, and -1 where the best one is taken: (n, stages)."""
        explores = torch.rand(n, stages, generator=generator) < self.epsilon
        return torch.where(explores, torch.randint(options, (n, stages), generator=generator), -1)

    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Select."""
        best = grid.argmin(1)
        return best if draws is None else torch.where(draws < 0, best, draws)
