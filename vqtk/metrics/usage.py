"""Code usage: the entropy and perplexity of codes, and the options in use."""

from math import exp, log

import torch
from torch import Tensor

from vqtk.metrics._base import UsageMetric
from vqtk.registry import metrics


def _entropies(usage: Tensor) -> Tensor:
    """Return the entropy of each row of counts, in nats: (stages, options) → (stages,)."""
    frequency = usage / usage.sum(1, keepdim=True)
    return torch.special.entr(frequency.double()).sum(1)


@metrics.register("entropy_nats")
class EntropyNats(UsageMetric):
    """The entropy of a stage's code, averaged over the stages; at most ln K."""

    units = "nats"
    better = "higher"
    title = "entropy (nats)"
    digits = ".3f"

    def measure(self, usage: Tensor) -> float:
        """Return the mean entropy of the stages."""
        return _entropies(usage).mean().item()


@metrics.register("entropy_bits")
class EntropyBits(EntropyNats):
    """The entropy of a stage's code, averaged over the stages; at most log2 K."""

    units = "bits"
    title = "entropy (bits)"

    def measure(self, usage: Tensor) -> float:
        """Return the mean entropy of the stages."""
        return super().measure(usage) / log(2)


@metrics.register("entropy_pooled_nats")
class EntropyPooled(UsageMetric):
    """The entropy of the codes of all stages together; at most ln K.

    Source: VQ-DRAW.
    """

    units = "nats"
    better = "higher"
    digits = ".3f"

    def measure(self, usage: Tensor) -> float:
        """Return the entropy of the counts, summed over the stages."""
        counts = usage.sum(0).double()
        return torch.special.entr(counts / counts.sum()).sum().item()


@metrics.register("perplexity")
class Perplexity(UsageMetric):
    """The exponential of the entropy of a stage's code, averaged over the stages; at most K."""

    units = "options"
    better = "higher"
    digits = ".2f"

    def measure(self, usage: Tensor) -> float:
        """Return the mean perplexity of the stages."""
        values = [exp(value) for value in _entropies(usage).tolist()]
        return sum(values) / len(values)


@metrics.register("used")
class Used(UsageMetric):
    """The number of options that at least one example chooses, at any stage.

    Source: VQ-DRAW.
    """

    units = "options"
    better = "higher"
    title = "options used"
    digits = "d"

    def measure(self, usage: Tensor) -> int:
        """Return how many options have a count."""
        return int((usage.sum(0) > 0).sum())
