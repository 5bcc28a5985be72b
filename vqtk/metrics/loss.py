"""Metrics in units of the model's loss, which every evaluation reports."""

from collections.abc import Sequence

from vqtk.metrics._base import LossMetric
from vqtk.registry import metrics


class _Lower(LossMetric):
    """A loss."""

    units = "the loss"
    better = "lower"
    digits = ".5f"


@metrics.register("final")
class Final(_Lower):
    """The loss of the whole code's reconstruction.

    Source: VQ-DRAW.
    """

    def measure(self, distortion: Sequence[float | None], every: float | None) -> float | None:
        """Return the loss after the last stage."""
        return distortion[-1]


@metrics.register("choice")
class Choice(_Lower):
    """The smallest loss among the options of a stage, averaged over the stages.

    Source: VQ-DRAW.
    """

    def measure(self, distortion: Sequence[float | None], every: float | None) -> float | None:
        """Return the mean over the stages; None if a stage cannot be decoded."""
        known = [value for value in distortion if value is not None]
        return sum(known) / len(known) if len(known) == len(distortion) else None


@metrics.register("all")
class AllOptions(_Lower):
    """The loss averaged over all options of all stages.

    Source: VQ-DRAW.
    """

    def measure(self, distortion: Sequence[float | None], every: float | None) -> float | None:
        """Return the mean loss of all options."""
        return every
