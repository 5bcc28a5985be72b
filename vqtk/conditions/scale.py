"""The paper's stage conditioning: channels multiplied by a learned vector of the stage."""

import torch

from vqtk.nn.stage import ChannelAffine
from vqtk.registry import conditions


@conditions.register("scale", staged=True)
class Scale(ChannelAffine):
    """Multiply channels by a learned vector of the stage, initialised from a standard normal.

    Shapes: features (n, width, *size) → the same.
    Source: VQ-DRAW, stage conditioning.
    """

    def __init__(self, width: int, stages: int):
        super().__init__(torch.randn(stages, width))
