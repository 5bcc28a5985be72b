"""The accuracy of tokens."""

from torch import Tensor

from vqtk.metrics._base import ReconstructionMetric
from vqtk.registry import metrics


@metrics.register("token_accuracy", dimensions=(1,), data={"name": "wikitext2", "length": 8, "vocabulary": 5})
class TokenAccuracy(ReconstructionMetric):
    """The fraction of tokens that are reconstructed correctly."""

    units = "fraction"
    better = "higher"
    kinds = ("text",)
    title = "token accuracy"

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the fraction of each example."""
        return (shown == target).double().flatten(1).mean(1)
