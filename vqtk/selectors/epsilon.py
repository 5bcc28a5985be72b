"""Selection that explores."""

import torch
from torch import Tensor

from vqtk.nn.types import Fraction
from vqtk.registry import selectors


@selectors.register("epsilon")
class Epsilon:
    """With probability `epsilon` an item takes a random option; otherwise that of the smallest loss.

    Shapes: grid (n, k) → codes (n,) in [0, k).
    """

    def __init__(self, *, epsilon: Fraction = 0.01):
        self.epsilon = epsilon

    def __call__(self, grid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Select; the draws are made on the CPU, so that a seed means the same on every device."""
        n, options = grid.shape
        explores = torch.rand(n, generator=generator) < self.epsilon
        codes = torch.randint(options, (n,), generator=generator)
        return torch.where(explores.to(grid.device), codes.to(grid.device), grid.argmin(1))
