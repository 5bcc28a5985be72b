"""A refiner that remembers the walk: a recurrent cell reads each stage, and conditions the next one.

A plain refiner sees the reconstruction and the index of the stage, and nothing else. This one also carries a vector.
It reads what the stage saw and which option was taken, and is added to the features of the next stage.
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
    """Backbone, blocks, head, and a GRU: a vector of width `memory` is carried from stage to stage.

    The vector h is projected and added to the backbone's features, the same at every position. After the stage,
    h' = GRU([mean of the blocks' features over positions, the chosen option's embedding], h); h is 0 at first.

    Shapes: x (n, in_width, *size), state (n, memory) → deltas (n, options, out_channels, *size).
    Raises: ShapeError if parts do not fit.
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
        """Return the features, reminded of the stages before."""
        features, reminder = self.backbone(x, stage), self.remind(state)
        return self.blocks(features + reminder.reshape(*reminder.shape, *[1] * (features.dim() - 2)), stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return the features' mean over positions (n, width), and the memory (n, memory)."""
        return features.flatten(2).mean(2), state

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the memory after the stage (n, memory)."""
        mean, memory = carry
        return self.cell(torch.cat([mean, self.option(codes)], 1), memory)
