"""The paper's selector."""

from torch import Tensor

from vqtk.registry import selectors
from vqtk.selectors._base import Selector


@selectors.register("argmin")
class Argmin(Selector):
    """Take the option with the smallest loss.

    Shapes: grid (n, k) → codes (n,) in [0, k).
    Source: VQ-DRAW, algorithm 1.
    """

    def __call__(self, grid: Tensor, draws: Tensor | None = None) -> Tensor:
        """Select."""
        return grid.argmin(1)
