"""A condition: how features depend on the stage.

In a recipe: `plugins: [example.py]`, and `condition: example` in `model`, for all parts of it, or in one of them.
"""

import torch
from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("example", staged=True)
class Example(nn.Module):
    """Channels shifted by a learned vector of the stage, drawn from a normal distribution of `spread` at the start.

    Shapes: features (n, width, *size) → the same.
    """

    # What stands before the `*` is supplied by the toolkit; what stands behind it is what a recipe may set.
    def __init__(self, width: int, stages: int, *, spread: float = 1.0):
        super().__init__()
        self.shifts = nn.Parameter(spread * torch.randn(stages, width))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Shift."""
        return features + self.shifts[stage].reshape(-1, *[1] * (features.dim() - 2))
