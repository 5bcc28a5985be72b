"""A refiner with a map beside the reconstruction: channels that no one looks at, written and read by each stage.

The reconstruction is the only thing that a plain refiner hands on, so what it finds out it must find out again. Here
the blocks also read a coarse feature map, and write to it.
"""

import torch
from torch import Tensor, nn

from vqtk.errors import ShapeError
from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageSequential
from vqtk.nn.state import State
from vqtk.nn.types import Count, Size
from vqtk.refiners import Refiner
from vqtk.registry import BackboneFactory, BlockFactory, HeadFactory, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    "channels": 4,
}


@refiners.register("side_memory", example=_EXAMPLE, staged=True)
class SideMemory(Refiner):
    """Backbone, blocks, head, and a map of `channels` channels that is carried from stage to stage.

    The blocks take the backbone's features and the map m, concatenated. A 1-wide convolution of what they yield gives
    a gate g and a candidate c, and m' = m + sigmoid(g) · tanh(c); m is 0 at first.

    Shapes: x (n, in_width, *size), state (n, channels, *size of the features) → deltas (n, options, out_channels,
    *size).
    Raises: ShapeError if parts do not fit, or the blocks change the size of the features.
    Source: Gregor et al. 2016, Towards Conceptual Compression, arXiv 1604.08772, and Toderici et al. 2017, Full
    Resolution Image Compression with Recurrent Neural Networks, arXiv 1608.05148: feature maps carried between steps.
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
        channels: Count = 32,
    ):
        super().__init__()
        self.channels = channels
        self.output_scale = nn.Parameter(torch.tensor(output_scale))
        self.backbone = backbone(in_width, size, stages)
        self.blocks = StageSequential(self.backbone.width + channels, self.backbone.size)
        for block in blocks:
            self.blocks.append(block(self.blocks.width, self.blocks.size, stages))
        if self.blocks.size != self.backbone.size:
            raise ShapeError(
                f"the blocks make features of size {self.blocks.size} out of {self.backbone.size}, so the memory that "
                "they read cannot be written. Take `stride` and `upsample` out of the blocks."
            )
        self.write, _ = convolution(self.blocks.width, 2 * channels, self.blocks.size, kernel=1)
        self.head = head(self.blocks.width, self.blocks.size, stages, options, out_channels)
        self.size = self.head.size

    def initial_state(self, like: Tensor) -> State:
        """Return the empty map (n, channels, *size of the features)."""
        return like.new_zeros(len(like), self.channels, *self.backbone.size)

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and the map as this stage leaves it."""
        features = self._features(x, stage, state)
        return self.head.scaled(features, stage, self.output_scale), self._written(features, state)

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas by the head's own path, and the map as this stage leaves it."""
        features = self._features(x, stage, state)
        return self.head.choose(features, stage, codes) * self.output_scale, self._written(features, state)

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the map; the choice enters it by way of the next reconstruction."""
        return carry

    def _features(self, x: Tensor, stage: int, memory: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.backbone(x, stage), memory], 1), stage)

    def _written(self, features: Tensor, memory: Tensor) -> Tensor:
        gate, candidate = self.write(features).chunk(2, 1)
        return memory + gate.sigmoid() * candidate.tanh()
