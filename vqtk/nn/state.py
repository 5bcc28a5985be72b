"""A refiner's state: a pytree (tensor, tuple, list, dict or None) of batch-first tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

State = Any


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to each tensor of a state."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: tree_map(function, value) for key, value in state.items()}
    return type(state)(tree_map(function, value) for value in state)


def decay_gradient(value: Tensor, decay: float) -> Tensor:
    """Return the value with its gradient multiplied by `1 - decay`."""
    if decay == 0 or not value.requires_grad:
        return value
    return (1 - decay) * value + decay * value.detach()
