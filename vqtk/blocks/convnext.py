"""The ConvNeXt block."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Positive, Size
from vqtk.nn.unit import ChannelNorm, conditioned
from vqtk.registry import ConditionFactory, blocks


@blocks.register("convnext")
class ConvNeXt(StageModule):
    """A residual branch: depthwise convolution, norm, 1×1 convolution to `expansion` times the width, GELU, 1×1 back.

    The norm is over the channels of each position. Its output and the input of the GELU are conditioned on the stage.
    `layer_scale` is the initial value of a learned scale for each channel of the branch; null leaves it out.

    Shapes: features (n, in_width, *size) → the same; 1, 2 or 3 dimensions.
    Raises: ShapeError if the kernel is even, or the features are vectors.
    Source: Liu et al. 2022, A ConvNet for the 2020s, where the layer scale starts at 1e-6.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        kernel: Count = 7,
        expansion: Count = 4,
        layer_scale: Positive | None = 0.1,
        condition: ConditionFactory,
    ):
        super().__init__(in_width, size)
        wide = expansion * in_width
        self.depthwise, _ = convolution(in_width, in_width, size, kernel=kernel, groups=in_width)
        self.norm = ChannelNorm(in_width)
        self.normed_condition = condition(in_width, stages)
        self.expand, _ = convolution(in_width, wide, size, kernel=1)
        self.wide_condition = condition(wide, stages)
        self.project, _ = convolution(wide, in_width, size, kernel=1)
        each = (in_width, *[1] * len(size))
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full(each, layer_scale))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the branch, and add the input."""
        x = self.normed_condition(self.norm(self.depthwise(features)), stage)
        x = self.project(F.gelu(conditioned(self.expand, self.wide_condition, x, stage)))
        return features + (x if self.layer_scale is None else x * self.layer_scale)
