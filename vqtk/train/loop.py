"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from vqtk.datasets._base import Split
from vqtk.errors import VqtkError
from vqtk.train.run_directory import RunDirectory
from vqtk.train.seeds import Order
from vqtk.train.trainer import Trainer

LOG_EVERY = 10
FIRST_PICTURES_S = 60.0


class Watcher(Protocol):
    """Who is told how a run goes."""

    def step(self, done: int, updates: int, row: dict[str, Any], images_per_s: float) -> None:
        """An update is done; the row holds its losses."""

    def evaluated(self, done: int, row: dict[str, Any]) -> None:
        """The test items were evaluated."""

    def say(self, line: str) -> None:
        """There is something to tell the user."""


@dataclass
class Hooks:
    """What the loop calls in between: the test figures, and the pictures, of the model as it is."""

    evaluate: Callable[[], dict[str, Any]]
    picture: Callable[[int], None]


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
        step = trainer.update(batches.of_update(trainer.done), updates=updates)
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

    run.save(trainer)
    return trainer.done >= updates


def _check_finite(row: dict[str, Any], done: int) -> None:
    if not math.isfinite(row["choice"] + row["all"]):
        raise VqtkError(
            f"training diverged: at update {done} the losses are choice {row['choice']}, all {row['all']}. "
            "Checkpoints written before, if any, are kept. Lower train.optimizer.lr, or give the schedule a `warmup`."
        )


class Batches:
    """The batches of each update, in training units on the model's device."""

    def __init__(self, trainer: Trainer, data: Split):
        recipe = trainer.recipe
        self.device = trainer.model.bias.device
        self.normalise = trainer.model.data.normalise
        self.items = data.items.to(self.device)
        self.order = Order(len(data), recipe.seed)
        self.batch, self.accumulate = recipe.batch, recipe.train.accumulate
        self.items_per_update = self.batch * self.accumulate

    def of_update(self, done: int) -> list[Any]:
        """Return the batches of the update after `done` of them."""
        indices = self.order(done * self.items_per_update, self.items_per_update)
        raw = self.items[indices.to(self.device)]
        return [self.normalise(part) for part in raw.split(self.batch)]
