"""A condition: how features depend on the stage.

In a recipe: `plugins: [example.py]`, and `condition: example` in `model`, for all of its components, or in one of them.
"""

import torch
from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("example", staged=True)
class Example(nn.Module):
    """Add a learned vector of the stage to the channels, initialised from a normal distribution with std `spread`.

    Shapes: features (n, width, *size) → the same.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, width: int, stages: int, *, spread: float = 1.0):
        super().__init__()
        self.shifts = nn.Parameter(spread * torch.randn(stages, width))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Shift."""
        return features + self.shifts[stage].reshape(-1, *[1] * (features.dim() - 2))
