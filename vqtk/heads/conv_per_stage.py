"""A convolutional head whose last convolution has separate weights for each stage."""

from typing import Any

import torch
from torch import Tensor, nn

from vqtk.heads._base import Head
from vqtk.nn.convolution import applied_with, chosen_convolution, convolution
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, heads

_EXAMPLE = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}]


@heads.register("conv_per_stage", example={"layers": _EXAMPLE, "kernel": 3})
class ConvPerStageHead(Head):
    """Layer units, then a convolution with separate weights for each stage that computes the deltas of all options.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size after the units).
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
        condition: ConditionFactory,
    ):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.size)
        self.options = options
        self.layers = built
        self.outputs = nn.ModuleList(
            convolution(built.width, options * out_channels, built.size, kernel=kernel)[0] for _ in range(stages)
        )
        self.convolve, _ = applied_with(self.outputs[0])

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        deltas = self.convolve(self.layers(features, stage), *self._of(stage))
        return deltas.unflatten(1, (self.options, -1))

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by a scalar, by multiplying the filters."""
        weight, bias = self._of(stage)
        deltas = self.convolve(self.layers(features, stage), weight * scale, bias * scale)
        return deltas.unflatten(1, (self.options, -1))

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with only the filters of the chosen options."""
        weight, bias = (value.unflatten(0, (self.options, -1)) for value in self._of(stage))
        return chosen_convolution(self.layers(features, stage), weight[codes], bias[codes])

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the stage's filters and biases of each option."""
        output: Any = self.outputs[stage]
        return [OptionRows(output.weight), OptionRows(output.bias)]

    def _of(self, stage: int) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of a stage's convolution.

        While a graph is compiled they are indexed from a stack, because the stage is data there: indexing a list of
        modules would make a graph for each stage.
        """
        outputs: Any = self.outputs
        if torch.compiler.is_compiling():
            weights, biases = [one.weight for one in outputs], [one.bias for one in outputs]
            return torch.stack(weights)[stage], torch.stack(biases)[stage]
        return outputs[stage].weight, outputs[stage].bias
