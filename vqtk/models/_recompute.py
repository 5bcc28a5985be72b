"""A stage that keeps only its input, and recomputes its activations in the backward pass.

`torch.utils.checkpoint` is general; this is written for the walk. The codes that a stage chose are kept, and the second
computation takes them rather than choose again: rounding, or a draw, could otherwise lead it down another path than the
one whose gradient is asked for. There are no hooks on saved tensors, which cost as much as a small stage. If options
are drawn for the gradient, the second computation covers only these, the best and the chosen one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqtk.models._walk import Walk
from vqtk.nn.stage import State, leaves_of, with_leaves

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw


def recomputed(
    model: VQDraw,
    x: Tensor,
    state: State,
    target: Tensor,
    stage: int,
    options: Tensor | None,
    choice: dict[str, Any],
) -> tuple[Walk, Tensor | None]:
    """Walk through one stage as `model.walk` does, without keeping its activations.

    Gradients of the weights are added to their `.grad` while the backward pass runs, so it works with `backward` but
    not with `torch.autograd.grad`.

    Arguments:
        model: the model.
        x: the reconstruction before the stage.
        state: the refiner's state before the stage.
        target: the target.
        stage: the index of the stage.
        options: (n, m), the options that have a gradient besides the best and the chosen one; by default all.
        choice: how an option is chosen, as keyword arguments of `walk`.

    Shapes: → the walk, and the losses of the options (n, m).
    """
    states: list[State] = []
    # The weights are not arguments; the bias is passed on their behalf, so that the results require a gradient.
    grid, codes, losses, new, *leaves = _Recomputed.apply(
        model, stage, choice, state, states, options, target, model.bias, x, *leaves_of(state)
    )
    led = choice["along"] is not None
    return Walk(grid, codes, new, with_leaves(states[0], leaves), led=led), losses


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        model: VQDraw,
        stage: int,
        choice: dict[str, Any],
        state: State,
        states: list[State],
        options: Tensor | None,
        target: Tensor,
        bias: Tensor,
        x: Tensor,
        *leaves: Tensor,
    ) -> tuple[Tensor | None, ...]:
        walk = model.walk(target, stages=[stage], start=(x, state), **choice)
        states.append(walk.state)
        ctx.model, ctx.stage, ctx.state = model, stage, state
        ctx.autocast = _autocast(x.device.type)
        ctx.save_for_backward(target, walk.codes, walk.best, options, x, *leaves)
        ctx.mark_non_differentiable(walk.codes)
        ctx.set_materialize_grads(False)
        losses = None if options is None else walk.grid[:, 0].gather(1, options)
        return (walk.grid, walk.codes, losses, walk.reconstruction, *leaves_of(walk.state))

    @staticmethod
    def backward(
        ctx: Any, d_grid: Tensor | None, _: None, d_losses: Tensor | None, *d_after: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        target, codes, best, options, *entering = ctx.saved_tensors
        needed = ctx.needs_input_grad[8:]
        entering = [value.detach().requires_grad_(need) for value, need in zip(entering, needed, strict=True)]
        start = entering[0], with_leaves(ctx.state, entering[1:])
        with torch.enable_grad(), ctx.autocast:
            if options is None or len(start[0]) < len(target):
                again = ctx.model.walk(
                    target, stages=[ctx.stage], start=start, selector=lambda grid, draws: codes[:, 0]
                )
                values, gradients = [again.grid], [d_grid]
                if options is not None:
                    values, gradients = [*values, again.grid[:, 0].gather(1, options)], [d_grid, d_losses]
                after = [again.reconstruction, *leaves_of(again.state)]
            else:
                every = torch.cat([codes, best, options], 1)
                losses, *after = _of_options(ctx.model, start, target, ctx.stage, every)
                values = [losses[:, 1:2], losses[:, 2:]]
                gradients = [None if d_grid is None else d_grid[:, 0].gather(1, best), d_losses]
        _backward([*values, *after], [*gradients, *d_after])
        return (*[None] * 8, *(value.grad for value in entering))


def _of_options(
    model: VQDraw, start: tuple[Tensor, State], target: Tensor, stage: int, options: Tensor
) -> tuple[Tensor, ...]:
    """Return the losses of options (n, m), the reconstruction by the first of them, and the tensors of the state."""
    x, state = model.decayed(*start)
    deltas, carry = model.step(x, state, stage, options)
    first = torch.zeros_like(options[:, 0])
    losses, new = model.loss.take(x, deltas, target, model.loss.grid(x, deltas, target), first)
    after = model.advance(stage, carry, options[:, 0], new) if model.stateful else None
    return losses, new, *leaves_of(after)


def _backward(values: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    pairs = [pair for pair in zip(values, gradients, strict=True) if pair[0].requires_grad and pair[1] is not None]
    torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])


def _autocast(device: str) -> AbstractContextManager[Any]:
    """Return an autocast context with the current settings, for the second computation."""
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if enabled else None
    return torch.autocast("cpu" if device == "meta" else device, dtype, enabled=enabled, cache_enabled=False)
