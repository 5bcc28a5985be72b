"""A convolutional head whose last convolution has separate weights for each stage."""

from typing import Any

from einops import rearrange
from torch import Tensor, nn

from vqtk.heads._base import Head
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import Condition, heads

_EXAMPLE = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}]


@heads.register("conv_per_stage", example={"layers": _EXAMPLE, "kernel": 3})
class ConvPerStageHead(Head):
    """Layer units, then a convolution of each stage's own that yields every option's delta.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size yielded by the units).
    Raises: ShapeError if a unit does not fit.
    Source: VQ-DRAW, SVHN refiner.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        layers: list[Unit] = [],
        kernel: Count = 1,
        condition: Condition,
    ):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.size)
        self.options = options
        self.layers = built
        self.outputs = nn.ModuleList(
            convolution(built.width, options * out_channels, built.size, kernel=kernel)[0] for _ in range(stages)
        )

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        deltas = self.outputs[stage](self.layers(features, stage))
        return rearrange(deltas, "n (k c) ... -> n k c ...", k=self.options)

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with the chosen options' filters alone."""
        output: Any = self.outputs[stage]
        weight = rearrange(output.weight, "(k c) ... -> k c ...", k=self.options)
        bias = rearrange(output.bias, "(k c) -> k c", k=self.options)
        return chosen_convolution(self.layers(features, stage), weight[codes], bias[codes])
