"""How well a search among reconstructions finds the nearest neighbours of queries."""

from __future__ import annotations

from typing import ClassVar

from vqtk.metrics._base import RetrievalMetric
from vqtk.metrics._retrieval import Retrieval
from vqtk.registry import metrics


class _Recall(RetrievalMetric):
    """The fraction of the queries whose nearest example is among the `most` nearest reconstructions."""

    units = "fraction"
    better = "higher"
    most: ClassVar[int]

    def measure(self, found: Retrieval) -> float:
        """Return the fraction of queries."""
        return found.hits[:, : self.most].any(1).double().mean().item()


@metrics.register("recall_at_1")
class RecallAt1(_Recall):
    """The fraction of queries whose nearest example has the nearest reconstruction, by exact search in L2."""

    most = 1


@metrics.register("recall_at_10")
class RecallAt10(_Recall):
    """The fraction of queries whose nearest example is among the 10 nearest reconstructions, by exact search in L2."""

    most = 10


@metrics.register("recall_at_100")
class RecallAt100(_Recall):
    """The fraction of queries whose nearest example is among the 100 nearest reconstructions, by exact search in L2."""

    most = 100


@metrics.register("squared_error")
class VectorError(RetrievalMetric):
    """The squared distance of a vector to its reconstruction, summed over its values, in the units of the files."""

    units = "squared units of the files"
    better = "lower"

    def measure(self, found: Retrieval) -> float:
        """Return the mean over the vectors."""
        return found.squared_error
