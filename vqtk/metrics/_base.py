"""The base classes of metrics: one for each thing that a metric is computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import metrics

if TYPE_CHECKING:
    from vqtk.metrics._retrieval import Retrieval

Better = Literal["lower", "higher"]


class Metric(ABC):
    """A measured number of a model on test examples. A metric extends one of the classes below, not this one.

    A subclass sets:

    - `units`: what its values are in, in words.
    - `better`: which direction is better, `lower` or `higher`.
    - `kinds`: the kinds of data that it applies to; empty for all.
    - `title`: the heading of its column; its name if empty.
    - `digits`: the format of its values.

    Raises: DataError if it does not apply to the data.
    """

    units: ClassVar[str]
    better: ClassVar[Better]
    kinds: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    digits: ClassVar[str] = ".4f"

    def __init__(self, data: DataSpec):
        if self.kinds and data.kind not in self.kinds:
            raise DataError(
                f"{type(self).__name__} is a metric of {' or '.join(self.kinds)} data, and these are {data.kind}. "
                "`vqtk list metrics` shows the metrics of each kind."
            )
        self.data = data


class ReconstructionMetric(Metric):
    """Compares each example with its reconstruction. The value of a set is the mean over its examples."""

    @abstractmethod
    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return a value for each example: (n,).

        `self.data.pixels` returns images as pixels in [0, 1].

        Arguments:
            shown: the reconstructions (n, *data shape), in training units.
            target: the examples (n, *data shape), in training units.
        """

    def total(self, mean: float) -> float | None:
        """Return the metric of a set of examples from the mean of their values; None if it is infinite."""
        return mean


class UsageMetric(Metric):
    """Describes how evenly the codes of the examples use the options."""

    @abstractmethod
    def measure(self, usage: Tensor) -> float:
        """Return the metric, given how often each option was chosen at each stage: whole numbers (stages, options)."""


class LossMetric(Metric):
    """Is in units of the model's loss, and so cannot compare models of different losses."""

    @abstractmethod
    def measure(self, distortion: Sequence[float | None], every: float | None) -> float | None:
        """Return the metric, or None if it does not apply.

        Arguments:
            distortion: the mean loss after each stage; None for a stage that the model cannot decode.
            every: the mean loss of all options; None if only the chosen ones were scored.
        """


class CurveMetric(Metric):
    """Describes the rate–distortion curve. Runs are compared between two rates that all of them reach."""

    @abstractmethod
    def measure(self, bits: Sequence[float], distortion: Sequence[float], *, low: float, high: float) -> float:
        """Return the metric of a curve between two rates in bits; it is linear between its points."""


class RetrievalMetric(Metric):
    """Describes a search for the nearest neighbours of queries among reconstructions. The data need queries."""

    kinds = ("points",)

    @abstractmethod
    def measure(self, found: Retrieval) -> float:
        """Return the metric of a search."""


class SampleMetric(Metric):
    """Compares samples with test images by their features, those that `vqtk eval --quality` uses."""

    kinds = ("image",)

    @abstractmethod
    def measure(self, samples: Tensor, test: Tensor) -> float:
        """Return the distance of the features of samples (n, d) from those of test images (m, d)."""


def metric_class(name: str) -> type[Metric] | None:
    """Return the class of a registered metric; None if none has this name."""
    entry = metrics.entries().get(name)
    return entry.component if entry else None


def is_of_the_loss(name: str) -> bool:
    """Return whether a registered metric is in units of the loss."""
    return issubclass(metric_class(name) or object, (LossMetric, CurveMetric))
