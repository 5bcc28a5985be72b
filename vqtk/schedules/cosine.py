"""A schedule that is slow at both ends."""

import math

from vqtk.registry import schedules
from vqtk.schedules._base import Schedule


@schedules.register("cosine", example={"final": 2e-4, "warmup": 3})
class Cosine(Schedule):
    """Change the learning rate by half a cosine to `final`, after `warmup` updates in which it rises in equal steps.

    Source: Loshchilov and Hutter 2016, arXiv 1608.03983, without restarts.
    """

    def rate(self, done: float, lr: float) -> float:
        """Return half a period between lr and final."""
        return self.final + (lr - self.final) * (1 + math.cos(math.pi * done)) / 2
