"""The distance of points."""

import torch
from torch import Tensor

from vqtk.metrics._base import ReconstructionMetric
from vqtk.registry import metrics


@metrics.register("distance", dimensions=(0,), data={"name": "toy2d"})
class Distance(ReconstructionMetric):
    """The Euclidean distance from a point to its reconstruction, in training units."""

    units = "training units"
    better = "lower"
    kinds = ("points",)
    title = "distance (training units)"
    digits = ".5f"

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each example."""
        return torch.linalg.vector_norm(shown - target, dim=1)
