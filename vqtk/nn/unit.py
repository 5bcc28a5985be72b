"""The layer unit of recipes: a convolution, then an ordered list of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vqtk.errors import ShapeError
from vqtk.nn.convolution import applied_with, convolution, upsampling
from vqtk.nn.graph import is_exporting
from vqtk.nn.stage import ChannelAffine, StageModule, StageSequential
from vqtk.nn.types import Count, Size
from vqtk.registry import ConditionFactory


@dataclass(frozen=True)
class Group:
    """A group normalisation with that many groups."""

    group: Count


Operation = Literal["condition", "relu", "layer", "positions"] | Group


@dataclass(frozen=True)
class Unit:
    """The settings of a layer unit: a convolution and operations after it; without `width`, only the operations."""

    width: Count | None = None
    kernel: Count = 3
    stride: Count = 1
    upsample: Literal[2] | None = None
    dilation: Count = 1
    then: list[Operation] = field(default_factory=lambda: ["condition", "relu"])


class Positions(nn.Module):
    """Adds a learned value for every channel and position, initialised from a standard normal.

    Shapes: (n, width, *size) → the same.
    """

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, width, *size))

    def forward(self, features: Tensor) -> Tensor:
        """Add the positions."""
        return features + self.table


class _Operation(nn.Module):
    """One operation of a unit; `staged` says whether it takes the stage."""

    def __init__(self, module: nn.Module, *, staged: bool = False):
        super().__init__()
        self.module = module
        self.staged = staged


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each position.

    Shapes: (n, width, *size) → the same.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each position separately."""
        return rearrange(super().forward(rearrange(features, "n c ... -> n ... c")), "n ... c -> n c ...")


def norm(kind: int | Literal["layer"], width: int, size: Size) -> nn.Module:
    """Return a group norm with `kind` groups, or a layer norm over channels and size.

    Raises: ShapeError if the groups do not divide the width.
    """
    if kind == "layer":
        return nn.LayerNorm([width, *size])
    if width % kind:
        raise ShapeError(f"{kind} groups do not divide {width} channels. Choose a divisor of {width}.")
    return nn.GroupNorm(kind, width)


class LayerUnit(StageModule):
    """A convolution (a linear map for vectors) followed by operations; without `width`, only the operations.

    A condition directly after the convolution is folded into its weights, and a ReLU after that works in place: each
    would otherwise be a pass over the whole feature map.

    Shapes: features (n, in_width, *size) → (n, width, *size), divided by `stride` or doubled by `upsample`.
    Raises: ShapeError if the convolution or a norm does not fit.
    """

    def __init__(self, in_width: int, size: Size, stages: int, spec: Unit, condition: ConditionFactory):
        width, layers = in_width, []
        if spec.width is not None:
            module, size = _convolution(in_width, size, spec.width, spec)
            width = spec.width
            layers.append(_Operation(module))
        elif (spec.stride, spec.upsample) != (1, None):
            raise ShapeError("`stride` and `upsample` belong to a convolution: give this unit a `width`.")
        super().__init__(width, size)
        for operation in spec.then:
            if operation == "condition":
                layers.append(_Operation(condition(width, stages), staged=True))
            else:
                layers.append(_Operation(_operation(operation, width, size)))
        self.layers = nn.ModuleList(layers)
        self.folds = len(layers) > 1 and spec.width is not None and isinstance(layers[1].module, ChannelAffine)
        if self.folds:
            self.convolve, self.along_channels = applied_with(layers[0].module)
            # The number of examples from which the feature maps have more values than the filters.
            filters: Any = layers[0].module.weight
            self.worth_folding = filters.numel() / (width * prod(size))
            if len(layers) > 2 and isinstance(layers[2].module, nn.ReLU):
                layers[2].module.inplace = True

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the operations in order."""
        layers: Any = self.layers
        if self.folds:
            convolution, condition = layers[0].module, layers[1].module
            scale, shifts = condition.scales[stage], condition.shifts
            if is_exporting() or features.shape[0] >= self.worth_folding:
                weight, bias = convolution.weight * scale.reshape(self.along_channels), convolution.bias * scale
                features = self.convolve(features, weight, bias if shifts is None else bias + shifts[stage])
            else:
                vector = (-1, *[1] * (features.dim() - 2))
                features = convolution(features) * scale.reshape(vector)
                features = features if shifts is None else features + shifts[stage].reshape(vector)
        for index in range(2 if self.folds else 0, len(layers)):
            operation = layers[index]
            features = operation.module(features, stage) if operation.staged else operation.module(features)
        return features


def conditioned(convolution: Any, condition: nn.Module, features: Tensor, stage: int) -> Tensor:
    """Convolve and condition on the stage; in one step, by scaling the filters, if that is less work."""
    if not isinstance(condition, ChannelAffine) or not (is_exporting() or _scales_filters(convolution, features)):
        return condition(convolution(features), stage)
    convolve, along_channels = applied_with(convolution)
    scale, shifts = condition.scales[stage], condition.shifts
    weight, bias = convolution.weight * scale.reshape(along_channels), convolution.bias * scale
    return convolve(features, weight, bias if shifts is None else bias + shifts[stage])


def _scales_filters(convolution: Any, features: Tensor) -> bool:
    """Return whether a channel has at least as many values to scale as its filter."""
    return bool(convolution.weight[0].numel() <= features.shape[0] * features.shape[2:].numel())


def units(in_width: int, size: Size, stages: int, specs: list[Unit], condition: ConditionFactory) -> StageSequential:
    """Build layer units in order. Raises: ShapeError that gives the index of the unit."""
    layers = StageSequential(in_width, size)
    for index, spec in enumerate(specs):
        try:
            layers.append(LayerUnit(layers.width, layers.size, stages, spec, condition))
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
