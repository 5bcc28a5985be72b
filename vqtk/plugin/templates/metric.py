"""A metric: a measured number of a model on test examples.

In a recipe: `plugins: [example.py]`, and `metrics: [example]` in `train`; or `vqtk eval RUN --metric example`.
"""

from torch import Tensor

from vqtk.metrics import ReconstructionMetric
from vqtk.nn.types import DataSpec, Positive
from vqtk.registry import metrics


@metrics.register("example")
class Example(ReconstructionMetric):
    """The fraction of values that are reconstructed to within `tolerance`, in training units."""

    units = "fraction"
    better = "higher"
    kinds = ("image", "voxels", "points", "signals")

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, data: DataSpec, *, tolerance: Positive = 0.1):
        super().__init__(data)
        self.tolerance = tolerance

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return a value for each example: (n, *data shape), twice → (n,)."""
        return ((shown - target).abs() <= self.tolerance).double().flatten(1).mean(1)
