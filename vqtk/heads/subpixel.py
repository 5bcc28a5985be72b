"""A head that computes the finest pixels as channels at a coarser size."""

from math import prod

import torch
from einops import rearrange
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.heads._base import Factors, Head
from vqtk.nn.convolution import applied_with, chosen_convolution, convolution
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, heads

_SHUFFLES = {
    1: "... (c i) x -> ... c (x i)",
    2: "... (c i j) y x -> ... c (y i) (x j)",
    3: "... (c i j l) z y x -> ... c (z i) (y j) (x l)",
}
"""For each number of dimensions, how the channels of a position become the pixels that it is split into."""


@heads.register("subpixel", example={"layers": [{"width": 6, "then": ["condition", "relu", {"group": 2}]}]})
class SubpixelHead(Head):
    """Layer units, then a convolution that computes `factor` pixels along each dimension at once for every option.

    The convolution has `options · out_channels · factor^d` channels, which are rearranged to pixels. It replaces a last
    upsampling unit and a convolution at the finest size.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *`factor` times the size after the units).
    Raises: ShapeError if a unit does not fit, or the features are vectors.
    Source: Shi et al. 2016, Real-Time Single Image and Video Super-Resolution.
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
        factor: Count = 2,
        kernel: Count = 3,
        condition: ConditionFactory,
    ):
        built = units(in_width, size, stages, layers, condition)
        if not built.size:
            raise ShapeError("the subpixel head works in 1, 2 or 3 dimensions, not on vectors. Use a `conv` head.")
        super().__init__(tuple(factor * length for length in built.size))
        self.options = options
        self.factor = factor
        self.layers = built
        channels = options * out_channels * factor ** len(built.size)
        self.output, _ = convolution(built.width, channels, built.size, kernel=kernel)
        self.convolve, _ = applied_with(self.output)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        deltas = self.output(self.layers(features, stage))
        return self._shuffled(deltas.unflatten(1, (self.options, -1)))

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by a scalar, by multiplying the filters."""
        output = self.output
        deltas = self.convolve(self.layers(features, stage), output.weight * scale, output.bias * scale)
        return self._shuffled(deltas.unflatten(1, (self.options, -1)))

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with only the filters of the chosen options."""
        weight, bias = (value.unflatten(0, (self.options, -1)) for value in (self.output.weight, self.output.bias))
        return self._shuffled(chosen_convolution(self.layers(features, stage), weight[codes], bias[codes]))

    def has_factors(self, n: int) -> bool:
        """Return whether the filters have one tap, and it pays."""
        q, width, positions = self.output.out_channels // self.options, self.layers.width, prod(self.layers.size)
        return prod(self.output.kernel_size) == 1 and Factors.pay(n, self.options, q, width + 1, positions)

    def factors(self, features: Tensor, stage: int, scale: Tensor) -> Factors:
        """Return the filters and the features as factors."""
        features = self.layers(features, stage).flatten(2)
        maps = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        filters = torch.cat([self.output.weight.flatten(1), self.output.bias[:, None]], 1) * scale
        return Factors(filters.unflatten(0, (self.options, -1)), maps, self._unshuffled, self._restored)

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the filters and biases of each option."""
        return [OptionRows(self.output.weight), OptionRows(self.output.bias)]

    def _shuffled(self, x: Tensor) -> Tensor:
        """Rearrange channels to pixels: (…, c · factor^d, *size) → (…, c, *factor times the size)."""
        return rearrange(x, _SHUFFLES[len(self.size)], **self._lengths())

    def _unshuffled(self, x: Tensor) -> Tensor:
        """Rearrange pixels to channels: (…, c, *size) → (…, c · factor^d, positions)."""
        channels, pixels = _SHUFFLES[len(self.size)].split(" -> ")
        return rearrange(x, f"{pixels} -> {channels}", **self._lengths()).flatten(-len(self.size))

    def _restored(self, x: Tensor) -> Tensor:
        """Rearrange channels to pixels: (…, c · factor^d, positions) → (…, c, *size)."""
        return self._shuffled(x.unflatten(-1, self.layers.size))

    def _lengths(self) -> dict[str, int]:
        return dict.fromkeys("ijl"[: len(self.size)], self.factor)
