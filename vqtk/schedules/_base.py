"""The base class of schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod

from vqtk.nn.types import NonNegative, Whole


class Schedule(ABC):
    """How the learning rate changes from the optimiser's `lr` to `final` over the updates.

    During the first `warmup` updates it rises to `lr` in equal steps; the schedule runs over the rest. The last update
    has the rate `final`.
    """

    def __init__(self, *, final: NonNegative = 0.0, warmup: Whole = 0):
        self.final, self.warmup = final, warmup

    def __call__(self, update: int, updates: int, lr: float) -> float:
        """Return the learning rate of update 1 … updates; it depends on nothing else, so that runs can be resumed."""
        if update <= self.warmup:
            return lr * update / self.warmup
        return self.rate((update - self.warmup) / max(1, updates - self.warmup), lr)

    @abstractmethod
    def rate(self, done: float, lr: float) -> float:
        """Return the learning rate when a fraction in (0, 1] of the updates after the warm-up is done."""
