"""A time budget, turned into a number of updates by measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from vqtk.datasets import Split
from vqtk.errors import VqtkError
from vqtk.runs.experiment import Experiment
from vqtk.train.batches import Batches
from vqtk.train.execution import synchronize
from vqtk.train.loop import FIRST_PICTURES_S
from vqtk.train.loop import Trainer
import copy
import re
import statistics
import tempfile
import time


WARM_UP = 20
MOST_OF_BUDGET = 0.5
"""The part of a budget that is kept for the evaluation at the end, at most."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Return a duration such as 90s, 5m, 1h30m. Raises: VqtkError."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise VqtkError(f"--budget {text!r}: expected a duration such as 90s, 5m or 1h30m.")
    total = sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    if total <= 0:
        raise VqtkError(f"--budget {text!r}: there is no time in it. Give at least a few seconds.")
    return total


@dataclass(frozen=True)
class Durations:
    """What the parts of a run take on this machine."""

    step_s: float
    evaluation_s: float
    pictures_s: float

    def updates_within(self, left_s: float, *, evaluate_every: int, picture_minutes: float, final_s: float) -> int:
        """Return how many updates fit, evaluations and pictures in between and the end included; at least 1."""
        pictures = 2 + max(0.0, left_s - FIRST_PICTURES_S) // (60 * picture_minutes)
        per_update = self.step_s + self.evaluation_s / evaluate_every
        return max(1, int((left_s - final_s - pictures * self.pictures_s) / per_update))


def durations(
    trainer: Trainer, data: Split, evaluate: Callable[[], object], picture: Callable[[], object]
) -> Durations:
    """Time 20 updates of a copy of the trainer, one evaluation and one set of pictures; the trainer stays as it is."""
    trial = copy.deepcopy(trainer)
    batches = Batches(trial.recipe, trial.model, data, done=trial.done)
    times = []

    def update() -> None:
        trial.update(next(batches), updates=10**9)
        synchronize(batches.device)

    for _ in range(WARM_UP):
        times.append(_timed(update))
    return Durations(statistics.mean(times[WARM_UP // 4 :]), _timed(evaluate), _timed(picture))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def updates_within(experiment: Experiment, budget: str) -> int:
    """Return the number of updates that fit the budget on this machine; the experiment stays as it is."""
    allowed, settings = seconds(budget), experiment.recipe.train
    started = time.monotonic()
    experiment.say(f"Measuring on {WARM_UP} updates how many fit into {budget} …")
    with tempfile.TemporaryDirectory() as scratch:
        measured = durations(
            experiment.trainer,
            experiment.splits.train,
            experiment.evaluate,
            lambda: experiment.picture(Path(scratch), 0),
        )
    left_s = allowed - (time.monotonic() - started)
    updates = measured.updates_within(
        left_s,
        evaluate_every=settings.evaluate_every,
        picture_minutes=settings.picture_minutes,
        final_s=_final_s(experiment, measured.evaluation_s, left_s, budget),
    )
    if updates == 1:
        experiment.say(f"Measuring alone takes about as long as {budget} here: training for one update.")
    experiment.say(f"{budget}: {updates} updates of {1e3 * measured.step_s:.0f} ms each.")
    return updates


def _final_s(experiment: Experiment, evaluation_s: float, left_s: float, budget: str) -> float:
    """Return the seconds to keep for the evaluation at the end; say so where it takes more than a budget can give.

    It is of the items that the recipe says, whatever the budget: what a run measures does not depend on the machine.
    """
    items, subset = len(experiment.final), len(experiment.subset)
    takes, most = evaluation_s * (items + subset) / subset, MOST_OF_BUDGET * max(0.0, left_s)
    if takes > most:
        experiment.say(
            f"Evaluating {items:,} test items at the end will take about {takes:.0f} s of {budget} or beyond. "
            f"train.final_items={subset} has fewer evaluated."
        )
    return min(takes, most)
