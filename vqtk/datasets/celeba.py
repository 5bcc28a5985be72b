"""CelebA: its spec."""

from vqtk.datasets._base import LaterDataset
from vqtk.nn.types import Count, DataSpec
from vqtk.registry import datasets


@datasets.register("celeba")
class CelebA(LaterDataset):
    """Aligned faces, cropped and scaled to `size` squared. Its recipe can be checked, not trained yet.

    Shapes: items (3, size, size), uint8; training units from -1 to 1.
    Source: Liu et al. 2015.
    """

    def __init__(self, *, size: Count = 64):
        self.size = size

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        return DataSpec("image", (3, self.size, self.size), mean=0.5, std=0.5)
