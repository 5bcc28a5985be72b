"""A block of two-layer networks, along the positions and along the channels."""

from math import prod

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import ChannelNorm
from vqtk.registry import ConditionFactory, blocks


@blocks.register("mixer")
class Mixer(StageModule):
    """Two residual branches: a two-layer network over the positions of each channel, then one over the channels.

    Both start with a norm over the channels of each position, whose output is conditioned on the stage, and have a ReLU
    between their layers. The first has `positions` hidden values (null: as many as there are positions), and all
    channels share it; the second has `expansion` times the width, and all positions share it. Every output of the block
    sees the whole feature map, and its work is two matrix products of good size, which suits a CPU. It works on one
    size only.

    Shapes: features (n, in_width, *size) → the same; 1, 2 or 3 dimensions.
    Raises: ShapeError if the features are vectors.
    Source: Tolstikhin et al. 2021, MLP-Mixer, arXiv 2105.01601.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        positions: Count | None = None,
        expansion: Count = 2,
        condition: ConditionFactory,
    ):
        super().__init__(in_width, size)
        if not size:
            raise ShapeError("a mixer works in 1, 2 or 3 dimensions; a vector is one position. Use a `conv` block.")
        count = prod(size)
        hidden = positions or count
        self.norms = nn.ModuleList(ChannelNorm(in_width) for _ in range(2))
        self.conditions = nn.ModuleList(condition(in_width, stages) for _ in range(2))
        self.spread, self.gather = nn.Linear(count, hidden), nn.Linear(hidden, count)
        self.expand, self.project = nn.Linear(in_width, expansion * in_width), nn.Linear(expansion * in_width, in_width)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Mix positions, then channels, each added to its input."""
        along = rearrange(self._normed(features, stage, 0), "n c ... -> n c (...)")
        mixed = features + self.gather(F.relu(self.spread(along))).reshape(features.shape)
        wise = rearrange(self._normed(mixed, stage, 1), "n c ... -> n ... c")
        changed = self.project(F.relu(self.expand(wise)))
        return mixed + rearrange(changed, "n ... c -> n c ...")

    def _normed(self, x: Tensor, stage: int, index: int) -> Tensor:
        return self.conditions[index](self.norms[index](x), stage)
