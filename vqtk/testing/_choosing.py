"""The contracts of selectors, guides and searches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vqtk.datasets import Held, Splits
from vqtk.losses import Loss
from vqtk.nn.stage import State
from vqtk.refiners import Refiner
from vqtk.testing._case import EXAMPLES, OPTIONS, STAGES, Case, Clause, Untouched, apart, draw, near
from vqtk.testing._surroundings import model_of

_EXAMPLES = 50


def returns_one_option_for_each_example(case: Case) -> None:
    """Codes (n,), int64 in [0, k), at the start, in the middle and at the end of training."""
    selector, grid = case.made(), draw(_EXAMPLES, OPTIONS)
    for progress in (0.0, 0.5, 1.0):
        drawn = _drawn(case, selector, progress=progress)
        for stage in range(STAGES):
            codes = selector(grid, None if drawn is None else drawn[:, stage])
            if codes.dtype != torch.int64 or codes.shape != (_EXAMPLES,):
                case.fail(
                    f"for a grid {tuple(grid.shape)} it returns {codes.dtype} of shape {tuple(codes.shape)}.",
                    f"Return one option for each example: int64 of shape ({_EXAMPLES},).",
                )
            if not ((codes >= 0) & (codes < OPTIONS)).all():
                case.fail(
                    f"with {OPTIONS} options it returns codes from {int(codes.min())} to {int(codes.max())}.",
                    f"Codes must be from 0 to {OPTIONS - 1}.",
                )


def depends_only_on_the_grid_and_its_draws(case: Case) -> None:
    """`draw` depends only on its generator, and a call only on grid and draws; neither uses the default generator."""
    selector, grid = case.made(), draw(_EXAMPLES, OPTIONS)
    state = torch.get_rng_state()
    one, same = (_drawn(case, selector, progress=0.5) for _ in range(2))
    if (one is None) != (same is None) or (one is not None and same is not None and not torch.equal(one, same)):
        case.fail(
            "`draw` returns something else for the same generator.", "Draw only with the generator that it is given."
        )
    for stage in range(STAGES):
        part = None if one is None else one[:, stage]
        if not torch.equal(selector(grid, part), selector(grid, part)):
            case.fail(
                "it returns something else when called again with the same grid and draws.",
                "Draw random numbers in `draw`, for all stages.",
            )
    if not torch.equal(torch.get_rng_state(), state):
        case.fail(
            "it draws from torch's default generator.",
            "Draw random numbers in `draw`, with the generator that it is given.",
        )


def selects_for_each_example_independently(case: Case) -> None:
    """An example's option depends only on its own losses and draws, so that a batch can be split."""
    selector, grid = case.made(), draw(_EXAMPLES, OPTIONS)
    drawn = _drawn(case, selector, progress=0.5)
    for stage in range(STAGES):
        at = None if drawn is None else drawn[:, stage]
        parts = [
            selector(grid[first : first + 7], None if at is None else at[first : first + 7])
            for first in range(0, _EXAMPLES, 7)
        ]
        if not torch.equal(torch.cat(parts), selector(grid, at)):
            case.fail(
                "the option of an example depends on the other examples of the batch.",
                "Use only its own losses and draws.",
            )


def does_not_modify_the_grid_or_the_draws(case: Case) -> None:
    """Neither is modified in place."""
    selector, grid = case.made(), draw(_EXAMPLES, OPTIONS)
    drawn = _drawn(case, selector, progress=0.5)
    inputs = Untouched(case, grid=grid, draws=drawn)
    selector(grid, None if drawn is None else drawn[:, 0])
    inputs.check("__call__")


SELECTION_CHECKS: list[Clause] = [
    returns_one_option_for_each_example,
    depends_only_on_the_grid_and_its_draws,
    selects_for_each_example_independently,
    does_not_modify_the_grid_or_the_draws,
]


def _drawn(case: Case, selector: object, *, progress: float) -> Tensor | None:
    """Return draws (n, stages, …) of a seeded generator."""
    drawn = selector.draw(  # type: ignore[attr-defined]
        _EXAMPLES, STAGES, OPTIONS, torch.Generator().manual_seed(1), progress=progress
    )
    if drawn is not None and tuple(drawn.shape[:2]) != (_EXAMPLES, STAGES):
        case.fail(
            f"`draw` returns shape {tuple(drawn.shape)} for {_EXAMPLES} examples and {STAGES} stages.",
            f"Return ({_EXAMPLES}, {STAGES}, …), or None if nothing is random.",
        )
    return drawn


_LABELLED = 12
"""The number of random examples, of two classes, that a guide is prepared with."""


def scores_each_option_of_each_example_independently(case: Case) -> None:
    """The grid (n, k) is finite, and each entry depends only on its proposal and on what is seen of its example."""
    guide, proposals, targets = _made(case)
    observed = guide.observed(targets)
    grid = guide(proposals, observed)
    if tuple(grid.shape) != (EXAMPLES, OPTIONS) or not grid.isfinite().all():
        case.fail(
            f"the grid has shape {tuple(grid.shape)}, or is not finite.",
            f"Return finite numbers of shape {(EXAMPLES, OPTIONS)}.",
        )
    for example in range(EXAMPLES):
        for option in range(OPTIONS):
            one = guide(proposals[example, option][None, None], observed[example : example + 1])[0, 0]
            if not near(one, grid[example, option], tolerance=1e-4):
                case.fail(
                    f"the loss of option {option} for example {example} depends on what else is in the batch: "
                    f"{apart(one, grid[example, option])}.",
                    "Reduce only over the values of one proposal.",
                )


def scores_deterministically_and_does_not_modify_its_inputs(case: Case) -> None:
    """The grid is the same again; proposals, targets and what is seen of them are not modified."""
    guide, proposals, targets = _made(case)
    given = Untouched(case, targets=targets)
    observed = guide.observed(targets)
    given.check("observed")
    inputs = Untouched(case, proposals=proposals, observed=observed)
    if not torch.equal(guide(proposals, observed), guide(proposals, observed)):
        case.fail("it returns another grid when called again.", "Draw random numbers in `prepare`, from its seed.")
    inputs.check("__call__")


def marks_what_is_hidden_and_shows_what_is_seen(case: Case) -> None:
    """`hidden` (*data shape) is bool; for images, `seen` returns images (n, 3, h, w) in [0, 1]."""
    guide, _, targets = _made(case)
    data = guide.data
    if tuple(guide.hidden.shape) != tuple(data.shape) or guide.hidden.dtype != torch.bool:
        case.fail(
            f"`hidden` is {guide.hidden.dtype} of shape {tuple(guide.hidden.shape)}.",
            f"Make it bool of shape {data.shape}.",
        )
    if not guide.observes or data.kind != "image":
        return
    seen = guide.seen(guide.observed(targets))
    if tuple(seen.shape) != (EXAMPLES, 3, *data.shape[1:]) or seen.min() < 0 or seen.max() > 1:
        case.fail(
            f"`seen` returns shape {tuple(seen.shape)} from {seen.min().item():.2g} to {seen.max().item():.2g}.",
            f"Return {(EXAMPLES, 3, *data.shape[1:])} in [0, 1].",
        )


GUIDE_CHECKS: list[Clause] = [
    scores_each_option_of_each_example_independently,
    scores_deterministically_and_does_not_modify_its_inputs,
    marks_what_is_hidden_and_shows_what_is_seen,
]


def _made(case: Case) -> tuple[Any, Tensor, Tensor]:
    """Return a prepared guide of a small model, proposals (n, k, *data shape) as data, and targets."""
    guide, targets = case.kept("guide", lambda: _prepared(case))
    return guide, draw(EXAMPLES, OPTIONS, *targets.shape[1:]).to(targets), targets.clone()


def _prepared(case: Case) -> tuple[Any, Tensor]:
    model, _, targets = model_of(case)
    guide = case.made(model.float(), dtype=torch.float32)
    if targets.is_floating_point():
        targets = targets.float()
    raw = torch.randint(2, (_LABELLED, *model.data.shape), generator=torch.Generator().manual_seed(0))
    split = Held(raw.to(torch.uint8), torch.arange(_LABELLED) % 2)
    guide.prepare(lambda: Splits(split, split, source="random examples"), seed=0)
    return guide, targets


# ── searches ─────────────────────────────────────────────────────────────────────────────────────


def carries_the_states_of_the_codes_that_it_keeps(case: Case) -> None:
    """A refiner that reads the reconstruction from its state, which `advance` sets, has the codes of one without."""
    model, _, target = model_of(case)
    codes = model.encode(target)
    model.refiners = nn.ModuleList(_ThroughState(refiner, model.loss) for refiner in model.refiners)
    model.stateful = True
    if not torch.equal(model.encode(target), codes):
        case.fail(
            "it returns other codes where a refiner has a state, although the state holds the reconstruction alone.",
            "Select the rows of `carry` as those of the reconstruction, and pass it to `model.advance` with the codes "
            "and the new reconstruction.",
        )


class _ThroughState(Refiner):
    """Computes another refiner's deltas from its state, and takes the new reconstruction as its next state."""

    def __init__(self, inner: Refiner, loss: Loss):
        super().__init__()
        self.inner, self.loss = inner, loss

    def initial_state(self, like: Tensor) -> State:
        return {"x": torch.zeros_like(like)}

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        return self.inner.propose(state["x"], stage, None)[0], [state["x"]]

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        return self.inner.choose(state["x"], stage, None, codes)[0], [state["x"]]

    def choose_many(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        return self.inner.choose_many(state["x"], stage, None, codes)[0], [state["x"]]

    def guess(self, x: Tensor, stage: int, state: State) -> Tensor:
        return self.inner.guess(state["x"], stage, None)

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        assert len(carry[0]) == len(codes) == len(x)
        return {"x": self.loss.to_channels(x)}


SEARCH_CHECKS: list[Clause] = [carries_the_states_of_the_codes_that_it_keeps]
