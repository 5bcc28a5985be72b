"""One layer unit as a refiner block."""

from typing import Literal

from torch import Tensor

from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import LayerUnit, Operation, Unit
from vqtk.registry import ConditionFactory, blocks


@blocks.register("conv", example={"width": 8, "kernel": 5, "dilation": 2})
class ConvBlock(StageModule):
    """One layer unit: a convolution and the operations after it; without `width`, only the operations.

    Shapes: features (n, in_width, *size) → (n, width, *size), divided by `stride` or doubled by `upsample`.
    Raises: ShapeError if the unit does not fit.
    Source: VQ-DRAW, MNIST and SVHN refiners.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        width: Count | None = None,
        kernel: Count = 3,
        stride: Count = 1,
        upsample: Literal[2] | None = None,
        dilation: Count = 1,
        then: list[Operation] = ["condition", "relu"],
        condition: ConditionFactory,
    ):
        spec = Unit(width, kernel, stride, upsample, dilation, then)
        built = LayerUnit(in_width, size, stages, spec, condition)
        super().__init__(built.width, built.size)
        self.layers = built

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the unit."""
        return self.layers(features, stage)
