"""The area under the rate–distortion curve."""

from collections.abc import Sequence

import numpy as np

from vqtk.metrics._base import CurveMetric
from vqtk.registry import metrics


@metrics.register("area")
class Area(CurveMetric):
    """The area under the rate–distortion curve, between the rates that all compared runs reach."""

    units = "the loss × bits"
    better = "lower"

    def measure(self, bits: Sequence[float], distortion: Sequence[float], *, low: float, high: float) -> float:
        """Return the integral of the distortion over the rate."""
        from scipy.integrate import trapezoid  # Here, for it takes a second to import.

        rates, values = np.asarray(bits, dtype=float), np.asarray(distortion, dtype=float)
        inside = rates[(rates > low) & (rates < high)]
        points = np.concatenate([[low], inside, [high]])
        return float(trapezoid(np.interp(points, rates, values), points))
