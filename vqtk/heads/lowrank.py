"""A head whose options share a few maps."""

from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn

from vqtk.heads._base import Factors, Head
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Unit, units
from vqtk.registry import ConditionFactory, heads

_EXAMPLE = [{"width": 6, "then": ["condition", "relu", {"group": 2}, "positions"]}]


@heads.register("lowrank", example={"layers": _EXAMPLE, "rank": 3}, dimensions=(0, 1, 2, 3))
class LowRankHead(Head):
    """Layer units, then a convolution that computes `rank` maps; every option's delta is a learned mixture of them.

    Each stage has its own mixtures (options, rank); with `per_stage: false` all stages share them. For a kernel with m
    taps, the convolution has `rank · out_channels · (m · width + 1)` parameters and the mixtures have
    `stages · options · rank`; a `conv` head has `options · out_channels · (m · width + 1)`. For each channel and
    position, all deltas take `rank · (m · width + options)` products instead of `options · m · width`; a chosen one
    takes `m · width` in both. The deltas of one input span at most `rank` directions, however many options there are.
    At initialisation they are about as large as those of a `conv` head.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size after the units).
    Raises: ShapeError if a unit does not fit.
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
        rank: Count = 16,
        per_stage: bool = True,
        condition: ConditionFactory,
    ):
        built = units(in_width, size, stages, layers, condition)
        super().__init__(built.size)
        self.out_channels = out_channels
        self.layers = built
        self.output, _ = convolution(built.width, rank * out_channels, built.size, kernel=kernel)
        self.mixtures = nn.Parameter(torch.randn(stages if per_stage else 1, options, rank) / rank**0.5)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        return self._mixed(features, stage, self._of(stage))

    def scaled(self, features: Tensor, stage: int, scale: Tensor) -> Tensor:
        """Return all deltas multiplied by a scalar, by multiplying the mixtures."""
        return self._mixed(features, stage, self._of(stage) * scale)

    def _mixed(self, features: Tensor, stage: int, mixtures: Tensor) -> Tensor:
        """Return the maps mixed by (k, rank): (n, k, out_channels, *size)."""
        maps = self.output(self.layers(features, stage))
        mixtures = mixtures.expand(maps.shape[0], -1, -1)
        deltas = torch.bmm(mixtures, rearrange(maps, "n (r c) ... -> n r (c ...)", c=self.out_channels))
        return deltas.reshape(*deltas.shape[:2], self.out_channels, *self.size)

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with the filters of the maps mixed for the chosen options."""
        mixtures = self._of(stage)[codes]
        weight = rearrange(self.output.weight, "(r c) ... -> r c ...", c=self.out_channels)
        bias = rearrange(self.output.bias, "(r c) -> r c", c=self.out_channels)
        return chosen_convolution(
            self.layers(features, stage), torch.tensordot(mixtures, weight, 1), torch.tensordot(mixtures, bias, 1)
        )

    def has_factors(self, n: int) -> bool:
        """Return whether scoring by the mixtures pays."""
        options, rank = self.mixtures.shape[1:]
        return Factors.pay(n, options, 1, rank, self.out_channels * prod(self.size))

    def factors(self, features: Tensor, stage: int, scale: Tensor) -> Factors:
        """Return the mixtures and the maps as factors."""
        channels, size = self.out_channels, self.size
        maps = rearrange(self.output(self.layers(features, stage)), "n (r c) ... -> n r (c ...)", c=channels)
        return Factors(
            (self._of(stage) * scale)[:, None],
            maps,
            arranged=lambda x: x.flatten(-1 - len(size))[..., None, :],
            restored=lambda x: x[..., 0, :].unflatten(-1, (channels, *size)),
        )

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the mixtures of each option."""
        return [OptionRows(self.mixtures, stage if len(self.mixtures) > 1 else 0)]

    def _of(self, stage: int) -> Tensor:
        """Return the mixtures of a stage: (k, rank)."""
        return self.mixtures[stage if len(self.mixtures) > 1 else 0]
