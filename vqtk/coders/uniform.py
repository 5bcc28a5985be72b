"""Equally likely codes."""

import torch

from vqtk.coders._entropy import Entropy, Walk, quantised
from vqtk.models import Model
from vqtk.registry import coders


@coders.register("uniform")
class Uniform(Entropy):
    """Every option is equally likely: log2(`options`) bits a stage, also if that is not a whole number.

    Raises: VqtkError if constriction is not installed.
    """

    def __init__(self, model: Model, tables: bytes):
        super().__init__(model, tables)
        self._row = quantised(torch.full((1, self.options), 1 / self.options, dtype=torch.float64), self.total)

    def walk(self, n: int) -> Walk:
        """Yield the same frequencies for all stages."""
        for _ in range(self.stages):
            yield self._row
