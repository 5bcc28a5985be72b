"""A stage whose activations are computed again in the backward pass, so that nothing but its input is kept.

It is written for the walk, where `torch.utils.checkpoint` is general: what a stage chose is kept and given back to it,
so the second time no option is chosen, and there are no hooks on saved tensors, which cost as much as a small stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqtk.models._walk import Walk
from vqtk.nn.state import State, leaves_of, with_leaves

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw


def recomputed(model: VQDraw, x: Tensor, state: State, target: Tensor, stage: int, **choice: Any) -> Walk:
    """Walk through one stage as `model.walk` does, without keeping its activations.

    Gradients by the weights are added to their `.grad` while the backward pass runs, so it works with `backward`, and
    not with `torch.autograd.grad`.
    """
    states: list[State] = []
    # The weights are no arguments: the bias stands for them, so that what comes out has a gradient.
    grid, codes, new, *leaves = _Recomputed.apply(
        model, stage, choice, state, states, target, model.bias, x, *leaves_of(state)
    )
    return Walk(grid, codes, new, with_leaves(states[0], leaves))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        model: VQDraw,
        stage: int,
        choice: dict[str, Any],
        state: State,
        states: list[State],
        target: Tensor,
        bias: Tensor,
        x: Tensor,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        walk = model.walk(target, stages=[stage], start=(x, state), **choice)
        states.append(walk.state)
        ctx.model, ctx.stage, ctx.state = model, stage, state
        ctx.autocast = _autocast(x.device.type)
        ctx.save_for_backward(target, walk.codes, x, *leaves)
        ctx.mark_non_differentiable(walk.codes)
        ctx.set_materialize_grads(False)
        return (walk.grid, walk.codes, walk.reconstruction, *leaves_of(walk.state))

    @staticmethod
    def backward(ctx: Any, d_grid: Tensor | None, _: None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        target, codes, *entering = ctx.saved_tensors
        needed = ctx.needs_input_grad[7:]
        entering = [value.detach().requires_grad_(need) for value, need in zip(entering, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast:
            walk = ctx.model.walk(
                target,
                stages=[ctx.stage],
                start=(entering[0], with_leaves(ctx.state, entering[1:])),
                selector=lambda grid, draws: codes[:, 0],
            )
        _backward([walk.grid, walk.reconstruction, *leaves_of(walk.state)], [d_grid, *d_after])
        return (*[None] * 7, *(value.grad for value in entering))


def _backward(values: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    pairs = [pair for pair in zip(values, gradients, strict=True) if pair[0].requires_grad and pair[1] is not None]
    torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])


def _autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context that computes as the present one does."""
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if enabled else None
    return torch.autocast("cpu" if device == "meta" else device, dtype, enabled=enabled, cache_enabled=False)
