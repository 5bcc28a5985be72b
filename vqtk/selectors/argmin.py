"""The paper's selection."""

import torch
from torch import Tensor

from vqtk.registry import selectors


@selectors.register("argmin")
class Argmin:
    """The option of the smallest loss.

    Shapes: grid (n, k) → codes (n,) in [0, k).
    Source: VQ-DRAW, algorithm 1.
    """

    def __call__(self, grid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Select."""
        return grid.argmin(1)
