"""A refiner's state: a pytree (tensor, tuple, list, dict or None) of batch-first tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

State = Any


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to each tensor of a state; what is neither tensor, tuple, list nor dict stays as it is."""
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
    """Return a state with other tensors in the places of its own."""
    remaining = iter(leaves)
    return tree_map(lambda _: next(remaining), state)


def repeat_batch(state: State, n: int) -> State:
    """Return the state of one example as that of n examples; one of n examples stays as it is."""
    return tree_map(lambda value: value.expand(n, *value.shape[1:]) if len(value) == 1 else value, state)


def chosen_of(deltas: Tensor, codes: Tensor) -> Tensor:
    """Return the chosen options: deltas (n, k, …) or (1, k, …), codes (n,) → (n, …); codes (n, m) → (n, m, …)."""
    if len(deltas) == 1:
        return deltas[0, codes]
    rows = torch.arange(len(codes), device=codes.device)
    return deltas[rows if codes.dim() == 1 else rows[:, None], codes]


def decay_gradient(value: Tensor, decay: float) -> Tensor:
    """Return the value with its gradient multiplied by `1 - decay`."""
    if decay == 0 or not value.requires_grad:
        return value
    return (1 - decay) * value + decay * value.detach()
