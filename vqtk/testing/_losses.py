"""The contract of stage-selection losses: their shapes, independent options, and the gradient of a selection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from vqtk.nn.types import DataSpec
from vqtk.testing._case import EXAMPLES, OPTIONS, Case, Clause, ContractError, Untouched, apart, compiled, draw, near
from vqtk.testing._surroundings import own_data

CODES = torch.tensor([1, 3, 0])
_EXACT_AT_MOST = 200
"""The most values of deltas for which every entry of a gradient is compared; for more, random directions are."""


def converts_between_reconstructions_channels_and_data(case: Case) -> None:
    """`to_channels`, `from_channels` and `show` return the shapes of `shape`, `channels`, `out_channels` and `size`."""
    for loss, x, deltas, target in tried_losses(case):
        one = draw(EXAMPLES, OPTIONS, loss.out_channels, *loss.size, seed=1)[:, 2]
        for call, found, expected in (
            ("to_channels", loss.to_channels(x), (EXAMPLES, loss.channels, *loss.size)),
            ("from_channels", deltas, (EXAMPLES, OPTIONS, *loss.shape)),
            ("show", loss.show(x), tuple(target.shape)),
        ):
            if tuple(found.shape) != tuple(expected):
                case.fail(
                    f"`{call}` returns shape {tuple(found.shape)}; expected {tuple(expected)}.",
                    "Correct it, or the arguments to the base class.",
                )
        if not torch.equal(loss.from_channels(one), deltas[:, 2]):
            case.fail(
                "`from_channels` returns another delta for one option alone than among all.",
                "Count axes from the last.",
            )


def scores_each_option_independently(case: Case) -> None:
    """The grid (n, k) is finite, and each entry is the loss of its proposal for its example."""
    for loss, x, deltas, target in tried_losses(case):
        grid = loss(x[:, None] + deltas, target)
        if tuple(grid.shape) != (EXAMPLES, OPTIONS):
            case.fail(
                f"the grid has shape {tuple(grid.shape)}; expected {(EXAMPLES, OPTIONS)}.", "Average over values."
            )
        if not grid.isfinite().all():
            case.fail("the grid is not finite.", "Look for a division, root or logarithm at 0, or an overflow.")
        for example in range(EXAMPLES):
            for option in range(OPTIONS):
                alone = loss((x + deltas[:, option])[example, None, None], target[example, None])[0, 0]
                if not near(alone, grid[example, option]):
                    case.fail(
                        f"the loss of option {option} for example {example} depends on what else is in the batch: "
                        f"{apart(alone, grid[example, option])}.",
                        "Reduce only over the values of one proposal.",
                    )


def is_deterministic_and_does_not_modify_its_inputs(case: Case) -> None:
    """The grid is the same again, in both modes; proposals, reconstruction, deltas and target are not modified."""
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
            case.fail(
                "it returns another grid when called again.", "A loss must not be random, nor depend on the mode."
            )


def agrees_with_materialised_proposals(case: Case) -> None:
    """`grid` and `take` return the grid and reconstruction that the definition gives, and their gradients."""
    for loss, x, deltas, target in tried_losses(case):
        for shared in (False, True):
            # Before the first choice, one example's reconstruction and deltas serve the whole batch.
            one, its = (x[:1], deltas[:1]) if shared else (x, deltas)
            for leaves in ([its.detach()], [its.detach(), one.detach()]):
                for leaf in leaves:
                    leaf.requires_grad_()
                its = leaves[0]
                one = leaves[1] if len(leaves) == 2 else one.detach()
                _check_taken(case, loss, one, its, target, leaves)


def _check_taken(case: Case, loss: Any, x: Tensor, deltas: Tensor, target: Tensor, leaves: list[Tensor]) -> None:
    proposals = (x[:, None] + deltas).expand(EXAMPLES, *deltas.shape[1:])
    plain = loss(proposals, target), proposals[torch.arange(EXAMPLES), CODES]
    shown = loss.grid(x, deltas, target)
    taken = loss.take(x, deltas, target, shown, CODES)
    weights = [draw(*value.shape, seed=3) for value in plain]
    gradients = [torch.autograd.grad(values, leaves, weights) for values in (taken, plain)]
    for what, found, expected in (
        ("the grid of `grid`", shown, plain[0]),
        ("the grid of `take`", taken[0], plain[0]),
        ("the reconstruction of `take`", taken[1], plain[1]),
        *(("the gradient of `take`", *pair) for pair in zip(*gradients, strict=True)),
    ):
        if not near(found, expected):
            case.fail(
                f"{what} differs from that of materialised proposals: {apart(found, expected)}.",
                "Compute the same, or leave `grid` and `take` to the base class.",
            )


def has_a_gradient_that_matches_finite_differences(case: Case) -> None:
    """The gradient of a selection, for reconstruction and deltas."""
    for loss, x, deltas, target in tried_losses(case):

        def select(x: Tensor, deltas: Tensor, loss: Any = loss, target: Tensor = target) -> tuple[Tensor, Tensor]:
            return loss.take(x, deltas, target, loss.grid(x, deltas, target), CODES)

        inputs = x.requires_grad_(), deltas.detach().requires_grad_()
        try:
            gradcheck(select, inputs, fast_mode=deltas.numel() > _EXACT_AT_MOST)
        except GradcheckError as error:
            case.fail(
                f"its gradient differs from finite differences: {' '.join(str(error).split())[:200]}.",
                "Correct its `backward`, or what it detaches.",
            )


def compiles_its_grid(case: Case) -> None:
    """The grid is the same under `torch.compile`."""
    for loss, x, deltas, target in tried_losses(case):
        proposals = x[:, None] + deltas
        expected = loss(proposals, target)  # First: its own error says more than that of torch.compile.
        found = compiled(case, loss.forward)(proposals, target)
        if not near(found, expected, tolerance=1e-6):
            case.fail(
                f"compiled, it returns another grid: {apart(found, expected)}.", "Avoid Python control flow on values."
            )
        break


CHECKS: list[Clause] = [
    converts_between_reconstructions_channels_and_data,
    scores_each_option_independently,
    is_deterministic_and_does_not_modify_its_inputs,
    agrees_with_materialised_proposals,
    has_a_gradient_that_matches_finite_differences,
    compiles_its_grid,
]


def tried_losses(case: Case) -> Iterator[tuple[Any, Tensor, Tensor, Tensor]]:
    """Yield a loss, reconstructions, four deltas for each as a network returns them, and targets."""
    for size in case.sizes():
        loss, data = _fitting(case, len(size))
        deltas = loss.from_channels(draw(EXAMPLES, OPTIONS, loss.out_channels, *loss.size, seed=1))
        if data.classes is None:
            target = draw(EXAMPLES, *data.shape, seed=2)
        else:
            target = torch.arange(EXAMPLES * data.shape[0]).reshape(EXAMPLES, -1) % data.classes
        yield loss, draw(EXAMPLES, *loss.shape), deltas, target


def _fitting(case: Case, dimensions: int) -> tuple[Any, DataSpec]:
    """Return the loss, built for its own data or the smallest of these dimensions that it accepts, and their spec."""
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
