"""A schedule: how the learning rate changes over the updates.

In a recipe: `plugins: [example.py]`, and `schedule: {name: example, final: 1e-4, power: 2, warmup: 100}` in `train`.
"""

from vqtk.nn.types import NonNegative, Positive, Whole
from vqtk.registry import schedules
from vqtk.schedules import Schedule


@schedules.register("example", example={"final": 2e-4, "warmup": 3})
class Example(Schedule):
    """Change the learning rate to `final` as the power `power` of what is left, after a warm-up."""

    # A recipe may set the parameters after the `*`.
    def __init__(self, *, power: Positive = 2.0, final: NonNegative = 0.0, warmup: Whole = 0):
        super().__init__(final=final, warmup=warmup)
        self.power = power

    def rate(self, done: float, lr: float) -> float:
        """Return the learning rate when a fraction in (0, 1] of the updates after the warm-up is done."""
        return self.final + (lr - self.final) * (1 - done) ** self.power
