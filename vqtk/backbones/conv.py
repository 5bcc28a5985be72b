"""The convolutional backbone of the original experiments."""

from torch import Tensor

from vqtk.nn.stage import StageModule
from vqtk.nn.types import Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, backbones

_EXAMPLE = [{"width": 6, "then": ["condition", "relu", "layer"]}, {"width": 8, "kernel": 5, "stride": 2}]


@backbones.register("conv", example={"layers": _EXAMPLE})
class ConvBackbone(StageModule):
    """Layer units in order, usually strided convolutions.

    Shapes: input (n, in_width, *size) → (n, width, *coarser size) of the last unit; 1, 2 or 3 dimensions.
    Raises: ShapeError if a unit does not fit.
    Source: VQ-DRAW, all refiners.
    """

    def __init__(self, in_width: int, size: Size, stages: int, *, layers: list[Unit], condition: ConditionFactory):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.width, built.size)
        self.layers = built

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the units in order."""
        for unit in self.layers.layers:
            features = unit(features, stage)
        return features
