"""No change of the learning rate."""

from vqtk.registry import schedules
from vqtk.schedules._base import Schedule


@schedules.register("constant")
class Constant(Schedule):
    """Keep the learning rate, after `warmup` updates in which it rises in equal steps.

    `final` has no effect. It is a setting because resolved recipes, such as those of runs, contain it.
    """

    def rate(self, done: float, lr: float) -> float:
        """Return lr."""
        return lr
