"""The paper's stage conditioning: channels multiplied by a learned vector of the stage."""

import torch
from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("scale", staged=True)
class Scale(nn.Module):
    """Channels multiplied by the stage's learned vector, drawn from a standard normal at the start.

    Shapes: features (n, width, *size) → the same.
    Source: VQ-DRAW, stage conditioning.
    """

    def __init__(self, width: int, stages: int):
        super().__init__()
        self.scales = nn.Parameter(torch.randn(stages, width))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Multiply."""
        return features * self.scales[stage].reshape(-1, *[1] * (features.dim() - 2))
