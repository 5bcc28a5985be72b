"""Feature-wise linear modulation by the stage."""

import torch

from vqtk.nn.stage import ChannelAffine
from vqtk.registry import conditions


@conditions.register("film", staged=True)
class Film(ChannelAffine):
    """Multiply channels by a learned vector of the stage, initialised to 1 + noise, and add another, initialised to 0.

    Shapes: features (n, width, *size) → the same.
    Source: Perez et al. 2018, FiLM: Visual Reasoning with a General Conditioning Layer.
    """

    def __init__(self, width: int, stages: int):
        super().__init__(1 + 0.1 * torch.randn(stages, width), torch.zeros(stages, width))
