"""The originals' schedule."""

from vqtk.registry import schedules
from vqtk.schedules._base import Schedule


@schedules.register("linear", example={"final": 2e-4, "warmup": 3})
class Linear(Schedule):
    """Change the learning rate in equal steps to `final`, after `warmup` updates in which it rises in equal steps.

    Source: the original implementation of VQ-DRAW.
    """

    def rate(self, done: float, lr: float) -> float:
        """Return lr·(1 - done) + final·done."""
        return lr * (1 - done) + self.final * done
