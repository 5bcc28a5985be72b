"""The intersection over union of voxels."""

import torch
from torch import Tensor

from vqtk.metrics._base import ReconstructionMetric
from vqtk.registry import metrics


@metrics.register("iou", dimensions=(3,), data={"name": "modelnet", "size": 4})
class IoU(ReconstructionMetric):
    """The intersection over union of voxels of at least 0.5; 1 if both grids are empty."""

    units = "fraction"
    better = "higher"
    kinds = ("voxels",)
    title = "IoU"

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the ratio of each example."""
        found, there = (shown >= 0.5).flatten(1), (target >= 0.5).flatten(1)
        either = (found | there).sum(1)
        both = (found & there).sum(1)
        return torch.where(either > 0, both / either.clamp(min=1), 1.0)
