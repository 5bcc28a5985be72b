"""SVHN: its spec."""

from vqtk.datasets._base import LaterDataset
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets


@datasets.register("svhn")
class SVHN(LaterDataset):
    """Street View house numbers, 32×32 colour. Its recipe can be checked, not trained yet.

    Shapes: items (3, 32, 32), uint8; training units from -1 to 1.
    Source: Netzer et al. 2011.
    """

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        return DataSpec("image", (3, 32, 32), mean=0.5, std=0.5)
