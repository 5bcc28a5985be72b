"""A refiner that remembers the walk: a recurrent cell reads each stage, and conditions the next one.

A plain refiner sees the reconstruction and the index of the stage, and nothing else. This one also carries a vector.
It reads what the stage saw and which option was taken, and is added to the features of the next stage.
"""

import torch
from torch import Tensor, nn

from vqtk.nn.stage import StageSequential
from vqtk.nn.state import State
from vqtk.nn.types import Count, Size
from vqtk.refiners import Refiner
from vqtk.registry import BackboneFactory, BlockFactory, HeadFactory, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    "memory": 6,
}


@refiners.register("recurrent", example=_EXAMPLE, staged=True)
class Recurrent(Refiner):
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
        backbone: BackboneFactory,
        blocks: list[BlockFactory] = [],
        head: HeadFactory,
        output_scale: float = 0.1,
        memory: Count = 128,
    ):
        super().__init__()
        self.output_scale = nn.Parameter(torch.tensor(output_scale))
        self.backbone = backbone(in_width, size, stages)
        self.blocks = StageSequential(self.backbone.width, self.backbone.size)
        for block in blocks:
            self.blocks.append(block(self.blocks.width, self.blocks.size, stages))
        self.head = head(self.blocks.width, self.blocks.size, stages, options, out_channels)
        self.size = self.head.size
        self.memory = memory
        self.remind = nn.Linear(memory, self.backbone.width, bias=False)
        self.option = nn.Embedding(options, memory)
        self.cell = nn.GRUCell(self.blocks.width + memory, memory)

    def initial_state(self, like: Tensor) -> State:
        """Return the empty memory (n, memory)."""
        return like.new_zeros(len(like), self.memory)

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas; `advance` needs the features' mean and the memory."""
        features = self._remembering(x, stage, state)
        return self.head.scaled(features, stage, self.output_scale), (features.flatten(2).mean(2), state)

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas by the head's own path."""
        features = self._remembering(x, stage, state)
        return self.head.choose(features, stage, codes) * self.output_scale, (features.flatten(2).mean(2), state)

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the memory after the stage (n, memory)."""
        mean, memory = carry
        return self.cell(torch.cat([mean, self.option(codes)], 1), memory)

    def _remembering(self, x: Tensor, stage: int, memory: Tensor) -> Tensor:
        features = self.backbone(x, stage)
        reminder = self.remind(memory)
        return self.blocks(features + reminder.reshape(*reminder.shape, *[1] * (features.dim() - 2)), stage)
