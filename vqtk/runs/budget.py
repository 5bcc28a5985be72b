"""Turn a budget into a number of updates: a run's time, by measurement, or what all runs of a study share."""

from __future__ import annotations

import copy
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vqtk.datasets import Split
from vqtk.errors import RecipeError, VqtkError
from vqtk.evaluate.references import WORTH_SHARE, are_worth_it
from vqtk.nn.types import Count, Positive
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.schema import INVALID, Scope, parse
from vqtk.runs.experiment import Experiment
from vqtk.training.batches import Batches
from vqtk.training.execution import Execution, flops_of, resolve, synchronize
from vqtk.training.loop import FIRST_PICTURES_S, Trainer

WARM_UP = 20
"""The most updates that are timed."""
TIMED_SHARE = 0.08
"""The share of a budget after which no further update is timed."""
TIMED_EXAMPLES = 64
"""The test examples by which the time of an evaluation is estimated."""
EVALUATION_SHARE = 0.25
"""The largest share of what is left of a budget that the final evaluation may take."""
FEW_UPDATES = 300
"""Below this, an untrained start would still show in the images, so that a model starts at the centres of its data."""
LEAST_EXAMPLES = 16
"""The fewest test examples that are evaluated."""
END_S = 4.0
"""Seconds for what is not timed: building the model again, the checkpoint and the report."""
SPARE_SHARE = 0.03
"""The share of a budget that is left, because updates do not always take the same time."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Return a duration such as 90s, 5m, 1h30m. Raises: VqtkError."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise VqtkError(f"--budget {text!r}: expected a duration such as 90s, 5m or 1h30m.")
    total = sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    if total <= 0:
        raise VqtkError(f"--budget {text!r}: expected more than zero time, at least a few seconds.")
    return total


@dataclass(frozen=True)
class Durations:
    """How long the parts of a run take on this machine."""

    step_s: float
    evaluation_s: float
    pictures_s: float

    def updates_within(self, left_s: float, *, evaluate_every: int, picture_minutes: float, final_s: float) -> int:
        """Return how many updates fit, with the evaluations and images in between and at the end; at least 1."""
        later_s = left_s - FIRST_PICTURES_S
        pictures = 1 + (1 + later_s // (60 * picture_minutes) if later_s > 0 else 0)
        per_update = self.step_s + self.evaluation_s / evaluate_every
        return max(1, int((left_s - final_s - pictures * self.pictures_s) / per_update))


def durations(
    trainer: Trainer,
    data: Split,
    evaluate: Callable[[], object],
    picture: Callable[[], object],
    *,
    most_s: float = math.inf,
) -> Durations:
    """Time updates of a copy of the trainer, one evaluation and one set of images; the trainer does not change.

    There are 20 updates, or as many as fit into `most_s` seconds, but at least two.
    """
    trial = copy.deepcopy(trainer)
    batches = Batches(trial.recipe, trial.model, data, done=trial.done)
    times: list[float] = []

    def update() -> None:
        trial.update(next(batches), updates=10**9)
        synchronize(batches.device)

    with closing(batches):
        while len(times) < WARM_UP and (len(times) < 2 or sum(times) + times[-1] < most_s):
            times.append(_timed(update))
    step_s = statistics.mean(times[max(1, len(times) // 4) :])
    return Durations(step_s, _timed(evaluate), _timed(picture))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Within:
    """The settings with which a run ends within its budget, as overrides, and the number of updates among them."""

    updates: int
    overrides: list[str]


def settings_within(experiment: Experiment, budget: str, *, since: float, free: bool) -> Within:
    """Return the settings with which a run ends within a budget on this machine.

    Arguments:
        experiment: the run; if the recipe or one of the settings is `train.init=kmeans`, its model now starts there.
            Nothing else changes.
        budget: a duration.
        since: when the budget began, by `time.monotonic`; what is measured here counts as well.
        free: whether the start of the model may be chosen. It is not if weights are loaded into it.
    """
    allowed, settings = seconds(budget), experiment.recipe.train
    experiment.say(f"Timing updates to see how many fit into {budget} …")
    sample = experiment.subset[:TIMED_EXAMPLES]
    with tempfile.TemporaryDirectory() as scratch:
        timed = durations(
            experiment.trainer,
            experiment.splits.train,
            lambda: experiment.evaluate(sample),
            lambda: experiment.picture(Path(scratch), 0),
            most_s=TIMED_SHARE * allowed,
        )
    each_s = timed.evaluation_s / len(sample)
    measured = replace(timed, evaluation_s=each_s * len(experiment.subset))

    def fitting() -> tuple[int, list[str]]:
        left_s = (1 - SPARE_SHARE) * allowed - END_S - (time.monotonic() - since)
        items, final_s = _final(experiment, each_s, left_s)
        shared: dict[str, Any] = {
            "evaluate_every": settings.evaluate_every,
            "picture_minutes": settings.picture_minutes,
        }
        updates = measured.updates_within(left_s, **shared, final_s=final_s)
        if _references_pay(experiment, updates):
            updates = measured.updates_within(left_s / (1 + WORTH_SHARE), **shared, final_s=final_s)
        return updates, items

    if free and settings.init == "kmeans":  # Within the budget: it takes as long as many updates.
        experiment.start_at_centres()
    updates, items = fitting()
    started = ["train.init=kmeans"] if free and updates < FEW_UPDATES and _starts_at_centres(experiment) else []
    if started:
        updates, items = fitting()
    _say(experiment, budget, updates, measured.step_s, [*items, *started])
    return Within(updates, [f"train.updates={updates}", *items, *started])


def _final(experiment: Experiment, each_s: float, left_s: float) -> tuple[list[str], float]:
    """Return the settings of the final evaluation, and its seconds.

    If the examples that the recipe sets take too long, fewer are evaluated, and no others besides.
    """
    final, subset = len(experiment.final), len(experiment.subset)
    twice = experiment.watched == "validation"  # The end evaluates these examples as well as those of the test split.
    needed, most_s = each_s * (final + (subset if twice or final != subset else 0)), EVALUATION_SHARE * max(0.0, left_s)
    if needed <= most_s:
        return [], needed
    items = min(final, subset, max(LEAST_EXAMPLES, int(most_s / each_s / (1 + twice))))
    return [f"train.evaluate_items={items}", f"train.final_items={items}"], each_s * items * (1 + twice)


def _starts_at_centres(experiment: Experiment) -> bool:
    """Start a model at the centres of its data, unless the recipe says where to start or the model cannot."""
    init = experiment.recipe.node.value["train"].value["init"]
    if init.origin != "default":
        return False
    try:
        experiment.start_at_centres()
    except RecipeError:
        return False
    return True


def _references_pay(experiment: Experiment, updates: int) -> bool:
    """Return whether a run of this many updates will compute references."""
    recipe = replace(experiment.recipe, train=replace(experiment.recipe.train, updates=updates))
    return are_worth_it([recipe], experiment.trainer.model, experiment.splits)


def _say(experiment: Experiment, budget: str, updates: int, step_s: float, changed: list[str]) -> None:
    if updates == 1:
        experiment.say(
            f"{budget} is about what timing and the end of the run take here, so this run trains for one update. Give "
            "a longer budget, or a recipe with quicker updates."
        )
    experiment.say(f"{budget}: {updates} update{'s' if updates > 1 else ''} of {1e3 * step_s:.0f} ms each.")
    if changed:
        experiment.say(
            f"To end in time and show something, this run also sets {', '.join(changed)}. Give these settings "
            "yourself to choose otherwise."
        )


# ── budgets that runs share ─────────────────────────────────────────────────────────────────────────

_BUDGETS: dict[str, Any] = {"updates": Count, "items": Count, "flops": Positive, "time": str}
_EQUAL = {
    "updates": "Every run trains for {value:,} updates.",
    "items": "Every run trains on {value:,} examples.",
    "flops": "Every run trains for {value:g} floating-point operations.",
    "time": "Every run trains for as many updates as take {value}, measured once for each variant, without "
    "evaluation and images.",
}


@dataclass(frozen=True)
class Equal:
    """A budget that all runs of a study share: `updates`, training examples (`items`), training `flops`, or `time`."""

    by: str
    value: float | str

    def sentence(self) -> str:
        """Return it as a sentence."""
        return _EQUAL[self.by].format(value=self.value)


def equal_of(node: Node | None, problems: Problems) -> Equal | None:
    """Return the budget that a study names; None if it names none."""
    if node is None:
        return None
    if not isinstance(node.value, dict) or len(node.value) != 1 or not set(node.value) <= set(_BUDGETS):
        given = ", ".join(node.value) if isinstance(node.value, dict) and node.value else repr(node.plain())
        problems.add(
            node, "equal", f"expected one budget, of {', '.join(_BUDGETS)}, as in {{updates: 2000}}; got {given}."
        )
        return None
    ((by, child),) = node.value.items()
    value = parse(child, _BUDGETS[by], f"equal.{by}", Scope(problems))
    if value is INVALID:
        return None
    if by == "time":
        try:
            seconds(value)
        except VqtkError:
            problems.add(child, "equal.time", f"expected a duration such as 90s, 5m or 1h30m, got {value!r}.")
    return Equal(by, value)


def updates_of(equal: Equal, recipe: Recipe, *, step: float | None = None) -> int:
    """Return for how many updates a variant trains; `step` is the seconds of one, for a budget of time.

    Raises: RecipeError if the budget is less than one update.
    """
    each: float = 1
    if equal.by == "items":
        each = recipe.examples_per_update
    elif equal.by == "flops":
        each = training_flops(recipe) * recipe.examples_per_update
    elif step is not None:
        each = step
    whole = seconds(str(equal.value)) if equal.by == "time" else float(equal.value)
    if whole < each:
        unit = {"time": "s", "items": "examples"}.get(equal.by, equal.by)
        raise RecipeError(
            f"the budget, {equal.by} {equal.value}, is less than one update of {recipe.name!r}, which takes "
            f"{each:.3g} {unit}. Give more."
        )
    return int(whole / each)


def training_flops(recipe: Recipe) -> int:
    """Return the operations of training on one example, forwards and backwards."""
    trainer = Trainer(recipe, build_model(recipe), Execution())
    return flops_of(lambda: trainer.update([synthetic(trainer.model.data, 1)], updates=1))


def step_s(recipe: Recipe, device: torch.device, *, steps: int = WARM_UP) -> float:
    """Return the seconds of an update on synthetic examples: the least of `steps`, since load only adds to it."""
    model = build_model(recipe, device=device)
    # A few updates do not earn a compilation, which would change the time by a tenth.
    trainer = Trainer(recipe, model, replace(resolve(recipe, model), inductor=False))
    batches = [synthetic(trainer.model.data, recipe.batch).to(device)] * recipe.train.accumulate
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        trainer.update(batches, updates=10**9)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
