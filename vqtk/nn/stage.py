"""Modules that take the stage, and functions on the state that a refiner carries from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqtk.nn.types import Size


class StageModule(nn.Module):
    """A map from features to features of `width` channels and size `size`, conditioned on the stage.

    Shapes: `forward(features (n, in_width, *in_size), stage)` → (n, width, *size), with `stage` in [0, stages).
    """

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.width = width
        self.size = size


class StageSequential(StageModule):
    """Stage modules applied in order; without any it returns its input."""

    def __init__(self, width: int, size: Size, modules: Iterable[StageModule] = ()):
        super().__init__(width, size)
        self.layers = nn.ModuleList()
        for module in modules:
            self.append(module)

    def append(self, module: StageModule) -> None:
        """Add a module at the end; it must take the current width and size."""
        self.layers.append(module)
        self.width, self.size = module.width, module.size

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the modules in order."""
        for layer in self.layers:
            features = layer(features, stage)
        return features


class ChannelAffine(nn.Module):
    """A condition that multiplies each channel by a value of the stage, and may add another.

    A convolution before it can do both in its filters, which have far fewer values than the feature maps of a batch:
    see `LayerUnit`. `scales` and `shifts` are (stages, width); `shifts` may be None.

    Shapes: features (n, width, *size) → the same.
    """

    def __init__(self, scales: Tensor, shifts: Tensor | None = None):
        super().__init__()
        self.scales = nn.Parameter(scales)
        self.shifts = None if shifts is None else nn.Parameter(shifts)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Multiply and shift."""
        vector = (-1, *[1] * (features.dim() - 2))
        scale = self.scales[stage].reshape(vector)
        return features * scale if self.shifts is None else self.shifts[stage].reshape(vector).addcmul(features, scale)


@dataclass(frozen=True, eq=False)
class OptionRows:
    """The part of a parameter that belongs to the options: its rows, option by option.

    Arguments:
        parameter: (k · c, …), or (stages, k · c, …) if each stage has rows of its own.
        stage: the index of the stage in the second case.
    """

    parameter: nn.Parameter
    stage: int | None = None

    def of(self, value: Tensor, options: int) -> Tensor:
        """Return a view (k, c, …) of a tensor with the shape of the parameter, such as a moment of the optimiser."""
        return (value if self.stage is None else value[self.stage]).unflatten(0, (options, -1))

    @property
    def key(self) -> tuple[int, int | None]:
        """Equal for equal rows."""
        return id(self.parameter), self.stage


State = Any


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to each tensor of a state, through tuples, lists and dicts; other values do not change."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: tree_map(function, value) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        return type(state)(tree_map(function, value) for value in state)
    return state


def leaves_of(state: State) -> list[Tensor]:
    """Return the tensors of a state, in order."""
    found: list[Tensor] = []

    def add(value: Tensor) -> Tensor:
        found.append(value)
        return value

    tree_map(add, state)
    return found


def with_leaves(state: State, leaves: Iterable[Tensor]) -> State:
    """Return a state with its tensors replaced by others, in order."""
    remaining = iter(leaves)
    return tree_map(lambda _: next(remaining), state)


def repeat_batch(state: State, n: int) -> State:
    """Return the state of one example repeated for n examples; a state of n examples does not change."""
    return tree_map(lambda value: value.expand(n, *value.shape[1:]) if value.shape[0] == 1 else value, state)


def chosen_of(deltas: Tensor, codes: Tensor) -> Tensor:
    """Return the chosen options: deltas (n, k, …) or (1, k, …), codes (n,) → (n, …); codes (n, m) → (n, m, …)."""
    if deltas.shape[0] == 1:
        return deltas[0, codes]
    rows = torch.arange(codes.shape[0], device=codes.device)
    return deltas[rows if codes.dim() == 1 else rows[:, None], codes]


def decay_gradient(value: Tensor, decay: float) -> Tensor:
    """Return the value with its gradient multiplied by `1 - decay`."""
    if decay == 0 or not value.requires_grad:
        return value
    return (1 - decay) * value + decay * value.detach()
