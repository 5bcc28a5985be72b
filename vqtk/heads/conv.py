"""The convolutional head of the original experiments."""

from einops import rearrange
from torch import Tensor

from vqtk.heads._base import Head
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import Condition, heads

_EXAMPLE = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}]


@heads.register("conv", example={"layers": _EXAMPLE})
class ConvHead(Head):
    """Layer units, then a convolution that yields every option's delta.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size yielded by the units).
    Raises: ShapeError if a unit does not fit.
    Source: VQ-DRAW, all refiners but SVHN's.
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
        kernel: Count = 3,
        condition: Condition,
    ):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.size)
        self.options = options
        self.layers = built
        self.output, _ = convolution(built.width, options * out_channels, built.size, kernel=kernel)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        deltas = self.output(self.layers(features, stage))
        return rearrange(deltas, "n (k c) ... -> n k c ...", k=self.options)

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with the chosen options' filters alone."""
        weight = rearrange(self.output.weight, "(k c) ... -> k c ...", k=self.options)
        bias = rearrange(self.output.bias, "(k c) -> k c", k=self.options)
        return chosen_convolution(self.layers(features, stage), weight[codes], bias[codes])
