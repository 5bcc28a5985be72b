"""A stage of the encoding pass: score all options and choose one, in the cheapest of three ways.

_by_factors     the head has factors             scores from products of factors; only the chosen delta is computed
_chosen_again   only the choice has a gradient   all deltas without a gradient, then the chosen ones with it
_by_deltas      otherwise                        all deltas with a gradient

Where the gradients of a grid come from:

no option's loss needs one        `walk` runs without gradients, or `Stages` decodes the codes of a path instead
only the chosen option's does     the grid has none; its entry for the choice is computed again, from the new x
every option's, of factors        autograd, through the products of the factors
every option's, shared by a batch autograd, through the product of residuals and deltas (`MSE.grid`)
every option's, otherwise         `take` of the loss, in one backward pass for the grid and the new x (`MSE.take`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqtk.nn.stage import State

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw

Choose = Callable[[Tensor], Tensor]
"""grid (n, k) → codes (n,)."""


def choose_option(
    model: VQDraw, x: Tensor, state: State, stage: int, target: Tensor, choose: Choose, *, chosen_only: bool
) -> tuple[Tensor, Tensor, Tensor, State]:
    """Score all options of a stage and choose one.

    Arguments:
        model: the model.
        x: the reconstruction so far (n, *shape), or (1, *shape) if all examples have the same.
        state: the refiner's state for the same examples.
        stage: the index of the stage.
        target: (n, *data shape).
        choose: grid (n, k) → codes (n,).
        chosen_only: whether only the loss of the chosen option has a gradient.

    Shapes: → the new reconstruction (n, *shape), grid (n, k), codes (n,), and what the refiner passes to `advance`.
    """
    chosen_only = chosen_only or not torch.is_grad_enabled()
    shared = x.shape[0] < target.shape[0]  # Then the deltas of one example serve all of them.
    compiled = model.compiled if model.compiled and model.compiled.takes(x) else None
    has_factors = model.loss.quadratic and model.refiners[stage // model.segment].has_factors(x.shape[0])
    if has_factors and not shared and not compiled:
        new, grid, codes, carry = _by_factors(model, x, state, stage, target, choose, chosen_only=chosen_only)
    elif chosen_only and not shared:
        new, grid, codes, carry = _chosen_again(model, x, state, stage, target, choose)
    else:
        return _by_deltas(model, x, state, stage, target, choose)
    if chosen_only and torch.is_grad_enabled():
        # The grid has no gradient: the chosen option's loss is replaced by one that has, through `new`.
        grid = grid.scatter(1, codes[:, None], model.loss(new[:, None], target))
    return new, grid, codes, carry


def _by_factors(
    model: VQDraw, x: Tensor, state: State, stage: int, target: Tensor, choose: Choose, *, chosen_only: bool
) -> tuple[Tensor, Tensor, Tensor, State]:
    refiner, bias = model.refiners[stage // model.segment], model.bias_of(stage)
    residual = model.loss.residual(x, target)
    assert residual is not None  # As for every quadratic loss.
    factors, carry = refiner.factors(model.loss.to_channels(x), stage % model.segment, state)
    with torch.set_grad_enabled(not chosen_only):
        grid = model.loss.grid_of_products(residual, factors.cross(residual, bias), factors.squares(bias))
    codes = choose(grid.detach())
    return _changed(model, x, factors.chosen(codes), bias, codes), grid, codes, carry


def _chosen_again(
    model: VQDraw, x: Tensor, state: State, stage: int, target: Tensor, choose: Choose
) -> tuple[Tensor, Tensor, Tensor, State]:
    refiner, bias, loss = model.refiners[stage // model.segment], model.bias_of(stage), model.compiled or model.loss
    network = model.compiled.network(refiner) if model.compiled and model.compiled.takes(x) else refiner

    def judge(deltas: Tensor) -> tuple[Tensor, Tensor]:
        deltas = model.loss.from_channels(deltas)
        grid = loss.grid(x, deltas if bias is None else deltas + bias, target)
        return grid, choose(grid)

    delta, grid, codes, carry = network.choose_by(model.loss.to_channels(x), stage % model.segment, state, judge)
    return _changed(model, x, delta, bias, codes), grid, codes, carry


def _by_deltas(
    model: VQDraw, x: Tensor, state: State, stage: int, target: Tensor, choose: Choose
) -> tuple[Tensor, Tensor, Tensor, State]:
    loss = model.compiled or model.loss
    deltas, carry = model.step(x, state, stage)
    grid = loss.grid(x, deltas, target)
    codes = choose(grid.detach())
    grid, new = loss.take(x, deltas, target, grid, codes)
    return new, grid, codes, carry


def _changed(model: VQDraw, x: Tensor, delta: Tensor, bias: Tensor | None, codes: Tensor) -> Tensor:
    """Return the reconstruction with the chosen deltas, as a network's output, and their bias added."""
    delta = model.loss.from_channels(delta)
    return x + (delta if bias is None else delta + bias[codes])
