"""The depthwise separable convolution."""

from torch import Tensor
from torch.nn import functional as F

from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import conditioned
from vqtk.registry import ConditionFactory, blocks


@blocks.register("depthwise", example={"width": 8, "kernel": 5})
class Depthwise(StageModule):
    """A depthwise convolution, then a 1×1 convolution, the stage condition and a ReLU.

    Without `width` it keeps the number of channels. In d dimensions it has `in_width · kernel^d + in_width · width`
    weights, where a full convolution has `kernel^d · in_width · width`.

    Shapes: features (n, in_width, *size) → (n, width, *size); 1, 2 or 3 dimensions.
    Raises: ShapeError if the kernel is even, or the features are vectors.
    Source: Howard et al. 2017, MobileNets; here without the norms, and without a ReLU between the convolutions.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        width: Count | None = None,
        kernel: Count = 3,
        condition: ConditionFactory,
    ):
        super().__init__(width or in_width, size)
        self.depthwise, _ = convolution(in_width, in_width, size, kernel=kernel, groups=in_width)
        self.pointwise, _ = convolution(in_width, self.width, size, kernel=1)
        self.condition = condition(self.width, stages)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Convolve each channel, then mix the channels; condition and rectify."""
        return F.relu(conditioned(self.pointwise, self.condition, self.depthwise(features), stage))
