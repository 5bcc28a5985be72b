"""A time budget, turned into a number of updates by measuring."""

from __future__ import annotations

import copy
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from vqtk.datasets import Split
from vqtk.errors import VqtkError
from vqtk.train.device import synchronize
from vqtk.train.loop import FIRST_PICTURES_S, Batches, Trainer

WARM_UP = 20
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
class Measured:
    """What the parts of a run take on this machine."""

    step_s: float
    evaluation_s: float
    pictures_s: float

    def updates_within(self, left_s: float, *, evaluate_every: int, picture_minutes: float, final_s: float) -> int:
        """Return how many updates fit, evaluations and pictures in between and the end included; at least 1."""
        pictures = 2 + max(0.0, left_s - FIRST_PICTURES_S) // (60 * picture_minutes)
        per_update = self.step_s + self.evaluation_s / evaluate_every
        return max(1, int((left_s - final_s - pictures * self.pictures_s) / per_update))


def measure(trainer: Trainer, data: Split, evaluate: Callable[[], object], picture: Callable[[], object]) -> Measured:
    """Time 20 updates of a copy of the trainer, one evaluation and one set of pictures; the trainer stays as it is."""
    trial = copy.deepcopy(trainer)
    batches = Batches(trial, data)
    times = []

    def update() -> None:
        trial.update(next(batches), updates=10**9)
        synchronize(batches.device)

    for _ in range(WARM_UP):
        times.append(_timed(update))
    return Measured(statistics.mean(times[WARM_UP // 4 :]), _timed(evaluate), _timed(picture))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
