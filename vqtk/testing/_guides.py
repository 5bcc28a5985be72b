"""The contract of guides: a grid of each option alone, from what they see of the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Held, Splits
from vqtk.testing._case import ITEMS, OPTIONS, Case, Clause, draw
from vqtk.testing._compare import Untouched, apart, near
from vqtk.testing._surroundings import model_of

_LABELLED = 12
"""Random items that a guide is prepared with, of two classes."""


def scores_each_option_of_each_item_alone(case: Case) -> None:
    """A grid (n, k), finite, whose entries depend on that proposal and on what is seen of that item."""
    guide, proposals, targets = _made(case)
    observed = guide.observed(targets)
    grid = guide(proposals, observed)
    if tuple(grid.shape) != (ITEMS, OPTIONS) or not grid.isfinite().all():
        case.fail(
            f"the grid has shape {tuple(grid.shape)}, or is not finite.", f"Yield {(ITEMS, OPTIONS)}, finite numbers."
        )
    for item in range(ITEMS):
        for option in range(OPTIONS):
            one = guide(proposals[item, option][None, None], observed[item : item + 1])[0, 0]
            if not near(one, grid[item, option], tolerance=1e-4):
                case.fail(
                    f"the loss of option {option} for item {item} depends on what else is in the batch: "
                    f"{apart(one, grid[item, option])}.",
                    "Reduce over the values of one proposal alone.",
                )


def scores_the_same_each_time_and_changes_nothing(case: Case) -> None:
    """Deterministic; proposals, targets and what is seen of them stay as they are."""
    guide, proposals, targets = _made(case)
    given = Untouched(case, targets=targets)
    observed = guide.observed(targets)
    given.check("observed")
    inputs = Untouched(case, proposals=proposals, observed=observed)
    if not torch.equal(guide(proposals, observed), guide(proposals, observed)):
        case.fail("it gives another grid when called again.", "Draw what is random in `prepare`, from its seed.")
    inputs.check("__call__")


def says_what_is_hidden_and_shows_what_is_seen(case: Case) -> None:
    """`hidden` (*data shape) is bool; of images, `seen` yields pictures (n, 3, h, w) in [0, 1]."""
    guide, _, targets = _made(case)
    data = guide.data
    if tuple(guide.hidden.shape) != tuple(data.shape) or guide.hidden.dtype != torch.bool:
        case.fail(
            f"`hidden` is {guide.hidden.dtype} of shape {tuple(guide.hidden.shape)}.", f"Say it as bool, {data.shape}."
        )
    if not guide.observes or data.kind != "image":
        return
    seen = guide.seen(guide.observed(targets))
    if tuple(seen.shape) != (ITEMS, 3, *data.shape[1:]) or seen.min() < 0 or seen.max() > 1:
        case.fail(
            f"`seen` yields shape {tuple(seen.shape)} from {seen.min().item():.2g} to {seen.max().item():.2g}.",
            f"Yield {(ITEMS, 3, *data.shape[1:])} in [0, 1].",
        )


CHECKS: list[Clause] = [
    scores_each_option_of_each_item_alone,
    scores_the_same_each_time_and_changes_nothing,
    says_what_is_hidden_and_shows_what_is_seen,
]


def _made(case: Case) -> tuple[Any, Tensor, Tensor]:
    """Return a prepared guide of a small model, proposals (n, k, *data shape) as data, and targets."""
    guide, targets = case.kept("guide", lambda: _prepared(case))
    return guide, draw(ITEMS, OPTIONS, *targets.shape[1:]).to(targets), targets.clone()


def _prepared(case: Case) -> tuple[Any, Tensor]:
    model, _, targets = model_of(case)
    guide = case.made(model.float(), dtype=torch.float32)
    if targets.is_floating_point():
        targets = targets.float()
    raw = torch.randint(2, (_LABELLED, *model.data.shape), generator=torch.Generator().manual_seed(0))
    split = Held(raw.to(torch.uint8), torch.arange(_LABELLED) % 2)
    guide.prepare(lambda: Splits(split, split, source="random items"), seed=0)
    return guide, targets
