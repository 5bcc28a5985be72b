"""Linear layers, the backbone for vectors."""

from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, backbones


@backbones.register("mlp", example={"widths": [6, 8]}, data={"name": "toy2d"}, dimensions=(0,))
class MLPBackbone(StageModule):
    """Linear layers for vectors, one of each width; each is conditioned on the stage and followed by a ReLU.

    Shapes: input (n, in_width) → (n, last of `widths`).
    Raises: ShapeError if the input is not vectors.
    """

    def __init__(
        self, in_width: int, size: Size, stages: int, *, widths: list[Count] = [64, 64], condition: ConditionFactory
    ):
        if size:
            raise ShapeError(f"mlp takes vectors, and the input has size {size}. Use the backbone `conv`.")
        built = units(in_width, size, stages, [Unit(width) for width in widths], condition)
        super().__init__(built.width, built.size)
        self.layers = built

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the layers in order."""
        return self.layers(features, stage)
