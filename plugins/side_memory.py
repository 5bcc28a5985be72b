"""A refiner with a feature map beside the reconstruction, which each stage reads and writes.

A plain refiner passes on only the reconstruction, so every stage must extract its features from it again. Here the
blocks also read a coarse feature map, and write to it.
"""

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.nn.convolution import convolution
from vqtk.nn.stage import State
from vqtk.nn.types import Count, Size
from vqtk.refiners.composed import Composed
from vqtk.registry import Inherited, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    "channels": 4,
}


@refiners.register("side_memory", example=_EXAMPLE, staged=True)
class SideMemory(Composed):
    """The refiner `composed` with a feature map of `channels` channels that is carried from stage to stage.

    The blocks take the backbone's features and the map m, concatenated. A 1×1 convolution of their output computes a
    gate g and a candidate c, and m' = m + sigmoid(g) · tanh(c); m is 0 at first.

    Shapes: x (n, in_width, *size), state (n, channels, *size of the features) → deltas (n, options, out_channels,
    *size).
    Raises: ShapeError if the components do not fit together, or the blocks change the size of the features.
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
        channels: Count = 32,
        **composed: Inherited,
    ):
        self.carried = channels
        super().__init__(in_width, size, stages, options, out_channels, **composed)
        if self.blocks.size != self.backbone.size:
            raise ShapeError(
                f"the blocks change the size of the features from {self.backbone.size} to {self.blocks.size}, so they "
                "cannot write the map that they read. Remove `stride` and `upsample` from the blocks."
            )
        self.write, _ = convolution(self.blocks.width, 2 * channels, self.blocks.size, kernel=1)

    def initial_state(self, like: Tensor) -> State:
        """Return the empty map (n, channels, *size of the features)."""
        return like.new_zeros(len(like), self.carried, *self.backbone.size)

    def features(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return the features of the blocks, which take the backbone's and the map."""
        return self.blocks(torch.cat([self.backbone(x, stage), state], 1), stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return the map after this stage."""
        gate, candidate = self.write(features).chunk(2, 1)
        return state + gate.sigmoid() * candidate.tanh()

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the map; the choice affects it through the next reconstruction."""
        return carry
