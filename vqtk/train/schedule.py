"""Learning-rate schedules."""

from __future__ import annotations

import math

from vqtk.recipe.recipe import Schedule


def learning_rate(schedule: Schedule, lr: float, update: int, updates: int) -> float:
    """Return the learning rate of update 1 … updates; the last one has the schedule's final value.

    linear: lr·(1 - j/U) + final·j/U; cosine: half a period between the same ends; constant: lr.
    """
    if update <= schedule.warmup:
        return lr * update / schedule.warmup
    done = (update - schedule.warmup) / max(1, updates - schedule.warmup)
    if schedule.name == "linear":
        return lr * (1 - done) + schedule.final * done
    if schedule.name == "cosine":
        return schedule.final + (lr - schedule.final) * (1 + math.cos(math.pi * done)) / 2
    return lr
