"""A U-Net: a downward half before the blocks, and an upward half with skips after them."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.backbones._base import Rise, SkipBackbone, Skips
from vqtk.errors import ShapeError
from vqtk.nn.stage import StageSequential
from vqtk.nn.types import Count, CountTo1000, Size
from vqtk.nn.unit import Operation, Unit, units
from vqtk.registry import ConditionFactory, backbones


@backbones.register("unet", example={"widths": [6, 8, 8], "stride": 2})
class UNet(SkipBackbone):
    """Levels that halve the size, and levels that double it again and concatenate the features of the way down.

    `widths` are the channels of the levels, finest first. The first level has the input's size divided by `stride`, and
    so have the features for the head. A level has `depth` convolutions, each followed by `then`. On the way up the
    features are enlarged to the size of the next finer level, which need not be exactly double, and concatenated with
    that level's features of the way down. The refiner's blocks work at the coarsest level.

    Shapes: input (n, in_width, *size) → (n, last width, *coarsest size) for the blocks, and (n, first width, *size
    divided by `stride`) for the head; 1, 2 or 3 dimensions.
    Raises: ShapeError if there are fewer than two levels, the input is vectors, or a norm does not fit.
    Source: Ronneberger et al. 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        widths: list[Count],
        stride: Count = 1,
        depth: CountTo1000 = 1,
        then: list[Operation] = ["condition", "relu"],
        condition: ConditionFactory,
    ):
        if not size:
            raise ShapeError("a U-Net halves sizes, and vectors have none. Use the backbone `mlp`.")
        if len(widths) < 2:
            raise ShapeError(f"`widths` is {widths}: a U-Net has at least two levels. Give the width of each.")
        levels, below = [], StageSequential(in_width, size)
        for width, step in zip(widths, [stride, *[2] * (len(widths) - 1)], strict=True):
            specs = [Unit(width, stride=step, then=then), *[Unit(width, then=then)] * (depth - 1)]
            below = units(below.width, below.size, stages, specs, condition)
            levels.append(below)
        super().__init__(below.width, below.size)
        self.levels = nn.ModuleList(levels)
        self.skips = [(level.width, level.size) for level in levels[:-1]]
        self.depth, self.then, self.condition = depth, then, condition

    def descend(self, x: Tensor, stage: int) -> tuple[Tensor, Skips]:
        """Apply the levels; the features of all but the last are skips."""
        features = [x]
        for level in self.levels:
            features.append(level(features[-1], stage))
        return features[-1], tuple(features[1:-1])

    def rise(self, in_width: int, size: Size, stages: int) -> Rise:
        """Return the levels of the way up."""
        widths = [in_width, *(width for width, _ in reversed(self.skips))]
        levels = []
        for (below, width), (_, finer) in zip(pairwise(widths), reversed(self.skips), strict=True):
            specs = [Unit(width, then=self.then)] * self.depth
            levels.append(units(below + width, finer, stages, specs, self.condition))
        return UNetRise(levels)


class UNetRise(Rise):
    """The levels of the way up, coarsest first; each takes the features below it concatenated with its level's skip."""

    def __init__(self, levels: list[StageSequential]):
        super().__init__(levels[-1].width, levels[-1].size)
        self.levels = nn.ModuleList(levels)

    def forward(self, features: Tensor, skips: Skips, stage: int) -> Tensor:
        """For each level, enlarge the features by nearest neighbour, concatenate the skip, and convolve."""
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            features = F.interpolate(features, size=skip.shape[2:], mode="nearest")
            features = level(torch.cat([features, skip], 1), stage)
        return features
