"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from vqtk.datasets._split import Split, batches_of
from vqtk.errors import VqtkError
from vqtk.train.run_directory import RunDirectory
from vqtk.train.seeds import Order
from vqtk.train.trainer import Trainer

LOG_EVERY = 10
FIRST_PICTURES_S = 60.0


class Watcher(Protocol):
    """Who is told how a run goes."""

    def step(self, done: int, updates: int, row: dict[str, Any], items_per_s: float) -> None:
        """An update is done; the row holds its losses."""

    def evaluated(self, done: int, row: dict[str, Any]) -> None:
        """The test items were evaluated."""

    def say(self, line: str) -> None:
        """There is something to tell the user."""


@dataclass
class Hooks:
    """What the loop calls in between: the test figures, the pictures, and the report, of the run as it is."""

    evaluate: Callable[[], dict[str, Any]]
    picture: Callable[[int], None]
    report: Callable[[], object]


@dataclass
class Stop:
    """A request to end after the update at hand."""

    asked: bool = False


@dataclass
class _Due:
    """Whether so much time has passed since the last time."""

    every_s: float
    last: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        if time.monotonic() - self.last < self.every_s:
            return False
        self.last = time.monotonic()
        return True


def train(trainer: Trainer, data: Split, run: RunDirectory, watcher: Watcher, hooks: Hooks, stop: Stop) -> bool:
    """Train until the recipe's updates are done; return False if asked to stop before.

    Evaluation comes at fixed updates; checkpoints and pictures, which change no figure, by the clock.
    """
    settings, updates = trainer.settings, trainer.settings.updates
    batches = Batches(trainer, data)
    checkpoint_due = _Due(settings.checkpoint_minutes * 60)
    pictures_due = _Due(min(FIRST_PICTURES_S, settings.picture_minutes * 60))

    while trainer.done < updates and not stop.asked:
        started = time.perf_counter()
        step = trainer.update(next(batches), updates=updates)
        seconds = time.perf_counter() - started
        trainer.seconds += seconds

        row = step.row()
        _check_finite(row, trainer.done)
        if trainer.done % LOG_EVERY == 0 or trainer.done in (1, updates):
            run.log({"update": trainer.done, **row, "step_ms": 1e3 * seconds})
        watcher.step(trainer.done, updates, row, batches.items_per_update / seconds)

        if trainer.done % settings.evaluate_every == 0 and trainer.done < updates:
            figures = hooks.evaluate()
            run.log({"update": trainer.done, "test": figures})
            watcher.evaluated(trainer.done, figures)
        if pictures_due():
            hooks.picture(trainer.done)
            pictures_due.every_s = settings.picture_minutes * 60
        if checkpoint_due():
            run.save(trainer)
            hooks.report()

    run.save(trainer)
    hooks.report()
    return trainer.done >= updates


def _check_finite(row: dict[str, Any], done: int) -> None:
    if not all(map(math.isfinite, row.values())):
        losses = ", ".join(f"{key} {value}" for key, value in row.items() if not math.isfinite(value))
        raise VqtkError(
            f"training diverged: at update {done} the losses are no longer finite: {losses}. "
            "Checkpoints written before, if any, are kept. Lower train.optimizer.lr, or give the schedule a `warmup`."
        )


class Batches:
    """The batches of each update that a trainer has still to do, in training units on the model's device."""

    def __init__(self, trainer: Trainer, data: Split):
        recipe = trainer.recipe
        self.device = trainer.model.device
        self.normalise = trainer.model.data.normalise
        self.batch = recipe.batch
        self.items_per_update = recipe.batch * recipe.train.accumulate
        self._order = Order(len(data), recipe.seed)
        self._raw = batches_of(data.to(self.device), self._indices(trainer.done))

    def _indices(self, done: int) -> Iterator[Tensor]:
        while True:
            yield self._order(done * self.items_per_update, self.items_per_update)
            done += 1

    def __next__(self) -> list[Tensor]:
        raw = next(self._raw).to(self.device, non_blocking=True)
        return [self.normalise(part) for part in raw.split(self.batch)]
