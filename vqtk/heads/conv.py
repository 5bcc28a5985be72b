"""The convolutional head of the original experiments."""

from torch import Tensor

from vqtk.heads._base import Head
from vqtk.nn.convolution import applied_with, chosen_convolution, convolution
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, heads

_EXAMPLE = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}]


@heads.register("conv", example={"layers": _EXAMPLE})
class ConvHead(Head):
    """Layer units, then a convolution that computes the deltas of all options.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size after the units).
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
        condition: ConditionFactory,
    ):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.size)
        self.options = options
        self.layers = built
        self.output, _ = convolution(built.width, options * out_channels, built.size, kernel=kernel)
        self.convolve, _ = applied_with(self.output)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        deltas = self.output(self._refined(features, stage))
        return deltas.unflatten(1, (self.options, -1))

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by a scalar, by multiplying the filters."""
        output = self.output
        deltas = self.convolve(self._refined(features, stage), output.weight * scale, output.bias * scale)
        return deltas.unflatten(1, (self.options, -1))

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with only the filters of the chosen options."""
        weight, bias = (value.unflatten(0, (self.options, -1)) for value in (self.output.weight, self.output.bias))
        return chosen_convolution(self._refined(features, stage), weight[codes], bias[codes])

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the filters and biases of each option."""
        return [OptionRows(self.output.weight), OptionRows(self.output.bias)]

    def _refined(self, features: Tensor, stage: int) -> Tensor:
        """Return the features after the layer units."""
        for unit in self.layers.layers:
            features = unit(features, stage)
        return features
