"""Placeholder while the core is laid."""
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

@datasets.register("mnist")
class MNIST:
    """MNIST."""
    @property
    def spec(self): return DataSpec("image",(1,28,28),mean=0.1307,std=0.3081)
