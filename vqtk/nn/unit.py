"""The layer unit of recipes: a convolution, then an ordered list of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vqtk.errors import ShapeError
from vqtk.nn.convolution import convolution, upsampling
from vqtk.nn.stage import StageModule, StageSequential
from vqtk.nn.types import Count, Size
from vqtk.registry import Condition


@dataclass(frozen=True)
class Group:
    """A group normalisation with that many groups."""

    group: Count


Operation = Literal["condition", "relu", "layer", "positions"] | Group


@dataclass(frozen=True)
class Unit:
    """A convolution, of vectors a linear map, followed by operations; without `width`, the operations alone."""

    width: Count | None = None
    kernel: Count = 3
    stride: Count = 1
    upsample: Literal[2] | None = None
    dilation: Count = 1
    then: list[Operation] = field(default_factory=lambda: ["condition", "relu"])


class Positions(nn.Module):
    """A learned number for every channel and position, added; drawn from a standard normal at the start.

    Shapes: (n, width, *size) → the same.
    """

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, width, *size))

    def forward(self, features: Tensor) -> Tensor:
        """Add the positions."""
        return features + self.table


class _Plain(StageModule):
    """A module that does not depend on the stage, where one that may is expected."""

    def __init__(self, module: nn.Module, width: int, size: Size):
        super().__init__(width, size)
        self.module = module

    def forward(self, features: Tensor, stage: int) -> Tensor:
        return self.module(features)


class _Conditioned(StageModule):
    """A condition, which yields the width and size that it takes."""

    def __init__(self, module: nn.Module, width: int, size: Size):
        super().__init__(width, size)
        self.module = module

    def forward(self, features: Tensor, stage: int) -> Tensor:
        return self.module(features, stage)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each position.

    Shapes: (n, width, *size) → the same.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Norm each position by itself."""
        return rearrange(super().forward(rearrange(features, "n c ... -> n ... c")), "n ... c -> n c ...")


def norm(kind: int | Literal["layer"], width: int, size: Size) -> nn.Module:
    """Return a group norm of `kind` groups, or a layer norm over channels and size.

    Raises: ShapeError if the groups do not divide the width.
    """
    if kind == "layer":
        return nn.LayerNorm([width, *size])
    if width % kind:
        raise ShapeError(f"{kind} groups do not divide {width} channels. Choose a divisor of {width}.")
    return nn.GroupNorm(kind, width)


def unit(in_width: int, size: Size, stages: int, spec: Unit, condition: Condition) -> StageSequential:
    """Build one layer unit. Raises: ShapeError if the convolution or a norm does not fit."""
    layers = StageSequential(in_width, size)
    if spec.width is not None:
        module, size = _convolution(in_width, size, spec.width, spec)
        layers.append(_Plain(module, spec.width, size))
    elif (spec.stride, spec.upsample) != (1, None):
        raise ShapeError("`stride` and `upsample` belong to a convolution: give this unit a `width`.")
    width = layers.width
    for operation in spec.then:
        if operation == "condition":
            layers.append(_Conditioned(condition(width, stages), width, size))
        else:
            layers.append(_Plain(_operation(operation, width, size), width, size))
    return layers


def units(in_width: int, size: Size, stages: int, specs: list[Unit], condition: Condition) -> StageSequential:
    """Build layer units in order. Raises: ShapeError, naming the unit by its position."""
    layers = StageSequential(in_width, size)
    for index, spec in enumerate(specs):
        try:
            layers.append(unit(layers.width, layers.size, stages, spec, condition))
        except ShapeError as error:
            raise ShapeError(f"layer {index}: {error}") from None
    return layers


def _convolution(in_width: int, size: Size, width: int, spec: Unit) -> tuple[nn.Module, Size]:
    if spec.upsample is None:
        return convolution(in_width, width, size, kernel=spec.kernel, stride=spec.stride, dilation=spec.dilation)
    if spec.stride != 1:
        raise ShapeError("a unit has `stride` or `upsample`, not both.")
    return upsampling(in_width, width, size)


def _operation(operation: Operation, width: int, size: Size) -> nn.Module:
    if isinstance(operation, Group):
        return norm(operation.group, width, size)
    if operation == "layer":
        return norm("layer", width, size)
    if operation == "positions":
        return Positions(width, size)
    return nn.ReLU()
