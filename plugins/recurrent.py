"""A refiner with a memory of earlier stages: a recurrent cell reads each stage, and conditions the next one.

A plain refiner sees only the reconstruction and the index of the stage. This one also carries a vector, which is
updated from the features and the chosen option of a stage, and added to the features of the next.
"""

import torch
from torch import Tensor, nn

from vqtk.nn.stage import State
from vqtk.nn.types import Count, Size
from vqtk.refiners.composed import Composed
from vqtk.registry import Inherited, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    "memory": 6,
}


@refiners.register("recurrent", example=_EXAMPLE, staged=True)
class Recurrent(Composed):
    """The refiner `composed` with a GRU, which carries a vector of `memory` values from stage to stage.

    The vector h is projected and added to the backbone's features, the same at every position. After the stage,
    h' = GRU([mean of the blocks' features over positions, embedding of the chosen option], h); h is 0 at first.

    Shapes: x (n, in_width, *size), state (n, memory) → deltas (n, options, out_channels, *size).
    Raises: ShapeError if the components do not fit together.
    Source: Gregor et al. 2015, DRAW, arXiv 1502.04623, for a recurrent state in a sequential auto-encoder;
    Cho et al. 2014, arXiv 1406.1078, for the cell.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        memory: Count = 128,
        **composed: Inherited,
    ):
        super().__init__(in_width, size, stages, options, out_channels, **composed)
        self.memory = memory
        self.remind = nn.Linear(memory, self.backbone.width, bias=False)
        self.option = nn.Embedding(options, memory)
        self.cell = nn.GRUCell(self.blocks.width + memory, memory)

    def initial_state(self, like: Tensor) -> State:
        """Return the empty memory (n, memory)."""
        return like.new_zeros(len(like), self.memory)

    def features(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return the features for the head, computed with the memory."""
        features, reminder = self.backbone(x, stage), self.remind(state)
        return self.blocks(features + reminder.reshape(*reminder.shape, *[1] * (features.dim() - 2)), stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return the mean of the features over positions (n, width), and the memory (n, memory)."""
        return features.flatten(2).mean(2), state

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the memory after the stage (n, memory)."""
        mean, memory = carry
        return self.cell(torch.cat([mean, self.option(codes)], 1), memory)
