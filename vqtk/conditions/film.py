"""Feature-wise linear modulation by the stage."""

import torch
from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("film", staged=True)
class Film(nn.Module):
    """Channels multiplied by, and shifted by, learned vectors of the stage; 1 + noise and 0 at the start.

    Shapes: features (n, width, *size) → the same.
    Source: Perez et al. 2018, FiLM: Visual Reasoning with a General Conditioning Layer.
    """

    def __init__(self, width: int, stages: int):
        super().__init__()
        self.scales = nn.Parameter(1 + 0.1 * torch.randn(stages, width))
        self.shifts = nn.Parameter(torch.zeros(stages, width))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Multiply and shift."""
        vector = (-1, *[1] * (features.dim() - 2))
        return torch.addcmul(self.shifts[stage].reshape(vector), features, self.scales[stage].reshape(vector))
