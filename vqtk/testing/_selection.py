"""The contract of selectors: valid options, decided by what was drawn beforehand, for each item alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vqtk.testing._case import OPTIONS, STAGES, Case, Clause, draw
from vqtk.testing._compare import Untouched

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


CHECKS: list[Clause] = [
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
