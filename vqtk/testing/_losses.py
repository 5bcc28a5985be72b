"""The contract of stage-selection losses: their shapes, each option alone, and the gradient of a selection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from vqtk.nn.types import DataSpec
from vqtk.testing._case import ITEMS, OPTIONS, Case, Clause, ContractError, Untouched, apart, compiled, draw, near
from vqtk.testing._surroundings import own_data

CODES = torch.tensor([1, 3, 0])
_EXACT_AT_MOST = 200
"""Values of deltas up to which each entry of a gradient is compared; beyond it random directions are."""


def translates_between_reconstructions_channels_and_data(case: Case) -> None:
    """`shape`, `channels`, `out_channels` and `size` are what `to_channels`, `from_channels` and `show` keep to."""
    for loss, x, deltas, target in tried_losses(case):
        one = draw(ITEMS, OPTIONS, loss.out_channels, *loss.size, seed=1)[:, 2]
        for call, found, expected in (
            ("to_channels", loss.to_channels(x), (ITEMS, loss.channels, *loss.size)),
            ("from_channels", deltas, (ITEMS, OPTIONS, *loss.shape)),
            ("show", loss.show(x), tuple(target.shape)),
        ):
            if tuple(found.shape) != tuple(expected):
                case.fail(
                    f"`{call}` yields shape {tuple(found.shape)}; expected {tuple(expected)}.",
                    "Correct it, or what the loss gives its base class.",
                )
        if not torch.equal(loss.from_channels(one), deltas[:, 2]):
            case.fail("`from_channels` gives one option another delta than among all.", "Count axes from the last.")


def scores_each_option_alone(case: Case) -> None:
    """A grid (n, k), finite, whose entries are the loss of that proposal for that item."""
    for loss, x, deltas, target in tried_losses(case):
        grid = loss(x[:, None] + deltas, target)
        if tuple(grid.shape) != (ITEMS, OPTIONS):
            case.fail(f"the grid has shape {tuple(grid.shape)}; expected {(ITEMS, OPTIONS)}.", "Average over values.")
        if not grid.isfinite().all():
            case.fail("the grid is not finite.", "Look for a division, root or logarithm at 0, or an overflow.")
        for item in range(ITEMS):
            for option in range(OPTIONS):
                alone = loss((x + deltas[:, option])[item, None, None], target[item, None])[0, 0]
                if not near(alone, grid[item, option]):
                    case.fail(
                        f"the loss of option {option} for item {item} depends on what else is in the batch: "
                        f"{apart(alone, grid[item, option])}.",
                        "Reduce over the values of one proposal alone.",
                    )


def scores_the_same_again_and_changes_nothing(case: Case) -> None:
    """Deterministic, in either mode; proposals, reconstruction, deltas and target stay as they are."""
    for loss, x, deltas, target in tried_losses(case):
        proposals = x[:, None] + deltas
        inputs = Untouched(case, x=x, deltas=deltas, target=target, proposals=proposals)
        grids = [loss.train(training)(proposals, target) for training in (True, True, False)]
        inputs.check("forward")
        loss.take(x, deltas, target, loss.grid(x, deltas, target), CODES.clone())
        inputs.check("grid or take")
        loss.to_channels(x)
        inputs.check("to_channels")
        loss.show(x)
        inputs.check("show")
        if not all(torch.equal(grid, grids[0]) for grid in grids):
            case.fail("it gives another grid when called again.", "A loss draws nothing at random, and has no modes.")


def takes_as_from_materialised_proposals(case: Case) -> None:
    """`grid` and `take` give the grid and the new reconstruction of the plain definition, and their gradients."""
    for loss, x, deltas, target in tried_losses(case):
        for shared in (False, True):
            # Before the first choice, one example's reconstruction and deltas stand for all.
            one, its = (x[:1], deltas[:1]) if shared else (x, deltas)
            for leaves in ([its.detach()], [its.detach(), one.detach()]):
                for leaf in leaves:
                    leaf.requires_grad_()
                its = leaves[0]
                one = leaves[1] if len(leaves) == 2 else one.detach()
                _check_taken(case, loss, one, its, target, leaves)


def _check_taken(case: Case, loss: Any, x: Tensor, deltas: Tensor, target: Tensor, leaves: list[Tensor]) -> None:
    proposals = (x[:, None] + deltas).expand(ITEMS, *deltas.shape[1:])
    plain = loss(proposals, target), proposals[torch.arange(ITEMS), CODES]
    shown = loss.grid(x, deltas, target)
    taken = loss.take(x, deltas, target, shown, CODES)
    weights = [draw(*value.shape, seed=3) for value in plain]
    gradients = [torch.autograd.grad(values, leaves, weights) for values in (taken, plain)]
    for what, found, expected in (
        ("`grid` gives a grid", shown, plain[0]),
        ("`take` gives a grid", taken[0], plain[0]),
        ("`take` gives a new reconstruction", taken[1], plain[1]),
        *(("`take` gives a gradient", *pair) for pair in zip(*gradients, strict=True)),
    ):
        if not near(found, expected):
            case.fail(
                f"{what} other than from the materialised proposals: {apart(found, expected)}.",
                "Compute the same, or leave `grid` and `take` to the base class.",
            )


def has_the_gradient_of_finite_differences(case: Case) -> None:
    """Of a selection, by reconstruction and deltas."""
    for loss, x, deltas, target in tried_losses(case):

        def select(x: Tensor, deltas: Tensor, loss: Any = loss, target: Tensor = target) -> tuple[Tensor, Tensor]:
            return loss.take(x, deltas, target, loss.grid(x, deltas, target), CODES)

        inputs = x.requires_grad_(), deltas.detach().requires_grad_()
        try:
            gradcheck(select, inputs, fast_mode=deltas.numel() > _EXACT_AT_MOST)
        except GradcheckError as error:
            case.fail(
                f"its gradient is not that of finite differences: {' '.join(str(error).split())[:200]}.",
                "Correct its `backward`, or what it detaches.",
            )


def its_grid_and_choice_compile(case: Case) -> None:
    """Under `torch.compile` it gives the grid that it gives without."""
    for loss, x, deltas, target in tried_losses(case):
        proposals = x[:, None] + deltas
        found, expected = compiled(case, loss.forward)(proposals, target), loss(proposals, target)
        if not near(found, expected, tolerance=1e-6):
            case.fail(f"compiled, it gives another grid: {apart(found, expected)}.", "Keep Python's control flow out.")
        break


CHECKS: list[Clause] = [
    translates_between_reconstructions_channels_and_data,
    scores_each_option_alone,
    scores_the_same_again_and_changes_nothing,
    takes_as_from_materialised_proposals,
    has_the_gradient_of_finite_differences,
    its_grid_and_choice_compile,
]


def tried_losses(case: Case) -> Iterator[tuple[Any, Tensor, Tensor, Tensor]]:
    """Yield a loss, reconstructions, four deltas of each as a network yields them, and targets."""
    for size in case.sizes():
        loss, data = _fitting(case, len(size))
        deltas = loss.from_channels(draw(ITEMS, OPTIONS, loss.out_channels, *loss.size, seed=1))
        if data.classes is None:
            target = draw(ITEMS, *data.shape, seed=2)
        else:
            target = torch.arange(ITEMS * data.shape[0]).reshape(ITEMS, -1) % data.classes
        yield loss, draw(ITEMS, *loss.shape), deltas, target


def _fitting(case: Case, dimensions: int) -> tuple[Any, DataSpec]:
    """Return the loss for its own data, or the smallest of so many dimensions that it takes, and what these are."""
    first: ContractError | None = None
    for data in _data(case, dimensions):
        try:
            return case.made(data), data
        except ContractError as error:
            first = first or error
    assert first is not None
    raise first


def _data(case: Case, dimensions: int) -> list[DataSpec]:
    own = own_data(case)
    if own and own.kind == "text":
        return [DataSpec("text", (4,), classes=5)]
    if own and len(own.shape) == dimensions + 1:
        return [own]
    if dimensions == 0:
        return [DataSpec("points", (2,))]
    sides = (8, 16 if dimensions == 3 else 32)
    return [
        DataSpec("image", (2, *(3, 2, 2)[:dimensions])),
        *(DataSpec("image", (3, *[n] * dimensions)) for n in sides),
    ]
