"""ModelNet as voxels: its spec."""

from vqtk.datasets._base import LaterDataset
from vqtk.nn.types import Count, DataSpec
from vqtk.registry import datasets


@datasets.register("modelnet")
class ModelNet(LaterDataset):
    """Shapes of furniture as voxel grids of `size` cubed. Its recipe can be checked, not trained yet.

    Shapes: items (1, size, size, size), 0 or 1.
    Source: Wu et al. 2015.
    """

    def __init__(self, *, size: Count = 64):
        self.size = size

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        return DataSpec("voxels", (1, self.size, self.size, self.size))
