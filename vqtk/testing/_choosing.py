"""What the contract asks of what chooses: selectors, searches and guides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Held, Splits
from vqtk.testing._case import ITEMS, OPTIONS, STAGES, Case, Clause, Untouched, apart, draw, near
from vqtk.testing._surroundings import model_of

_ITEMS = 50


def yields_an_option_for_each_item(case: Case) -> None:
    """Codes (n,), int64 in [0, k), at the start, in the middle and at the end of training."""
    selector, grid = case.made(), draw(_ITEMS, OPTIONS)
    for progress in (0.0, 0.5, 1.0):
        drawn = _drawn(case, selector, progress=progress)
        for stage in range(STAGES):
            codes = selector(grid, None if drawn is None else drawn[:, stage])
            if codes.dtype != torch.int64 or codes.shape != (_ITEMS,):
                case.fail(
                    f"for a grid {tuple(grid.shape)} it yields {codes.dtype} of shape {tuple(codes.shape)}.",
                    f"Yield one option for each item: int64 of shape ({_ITEMS},).",
                )
            if not ((codes >= 0) & (codes < OPTIONS)).all():
                case.fail(
                    f"with {OPTIONS} options it yields codes from {int(codes.min())} to {int(codes.max())}.",
                    f"Codes are from 0 to {OPTIONS - 1}.",
                )


def is_decided_by_its_draws_alone(case: Case) -> None:
    """`draw` depends on its generator alone, and a call on grid and draws; the default generator stays as it is."""
    selector, grid = case.made(), draw(_ITEMS, OPTIONS)
    state = torch.get_rng_state()
    one, same = (_drawn(case, selector, progress=0.5) for _ in range(2))
    if (one is None) != (same is None) or (one is not None and same is not None and not torch.equal(one, same)):
        case.fail(
            "`draw` gives something else for the same generator.", "Draw with the generator given, and nothing else."
        )
    for stage in range(STAGES):
        part = None if one is None else one[:, stage]
        if not torch.equal(selector(grid, part), selector(grid, part)):
            case.fail(
                "it yields something else when called again with the same grid and draws.",
                "Draw what is random in `draw`, for all stages.",
            )
    if not torch.equal(torch.get_rng_state(), state):
        case.fail(
            "it draws from torch's default generator.",
            "Draw what is random in `draw`, with the generator that it is given.",
        )


def decides_for_each_item_alone(case: Case) -> None:
    """A batch may be split: an item's option depends on its own losses and draws."""
    selector, grid = case.made(), draw(_ITEMS, OPTIONS)
    drawn = _drawn(case, selector, progress=0.5)
    for stage in range(STAGES):
        at = None if drawn is None else drawn[:, stage]
        parts = [
            selector(grid[first : first + 7], None if at is None else at[first : first + 7])
            for first in range(0, _ITEMS, 7)
        ]
        if not torch.equal(torch.cat(parts), selector(grid, at)):
            case.fail(
                "what an item takes depends on the other items of the batch.",
                "Use each item's own losses and draws alone.",
            )


def leaves_grid_and_draws_as_they_are(case: Case) -> None:
    """Neither is changed in place."""
    selector, grid = case.made(), draw(_ITEMS, OPTIONS)
    drawn = _drawn(case, selector, progress=0.5)
    inputs = Untouched(case, grid=grid, draws=drawn)
    selector(grid, None if drawn is None else drawn[:, 0])
    inputs.check("__call__")


SELECTION_CHECKS: list[Clause] = [
    yields_an_option_for_each_item,
    is_decided_by_its_draws_alone,
    decides_for_each_item_alone,
    leaves_grid_and_draws_as_they_are,
]


def _drawn(case: Case, selector: object, *, progress: float) -> Tensor | None:
    """Return draws (n, stages, …) of a seeded generator."""
    drawn = selector.draw(  # type: ignore[attr-defined]
        _ITEMS, STAGES, OPTIONS, torch.Generator().manual_seed(1), progress=progress
    )
    if drawn is not None and tuple(drawn.shape[:2]) != (_ITEMS, STAGES):
        case.fail(
            f"`draw` gives shape {tuple(drawn.shape)} for {_ITEMS} items and {STAGES} stages.",
            f"Give ({_ITEMS}, {STAGES}, …), or None if nothing is random.",
        )
    return drawn


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


GUIDE_CHECKS: list[Clause] = [
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
