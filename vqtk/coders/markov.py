"""Frequencies of a stage's options, given the code of the stage before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqtk.coders._entropy import FEW, MOST_ENTRIES, Tabled, too_large
from vqtk.models import Model
from vqtk.registry import coders

if TYPE_CHECKING:
    from vqtk.sampling.prior import Markov


@coders.register("markov")
class MarkovCoder(Tabled):
    """The Markov prior of `vqtk sample --prior markov`, fitted to codes of training examples; its tables are large.

    Raises: VqtkError if the tables are too large, or constriction is not installed.
    """

    @classmethod
    def shapes(cls, model: Model) -> list[tuple[int, int]]:
        """Return one row for the first stage, and one for each code of the stage before for the others."""
        if model.stages * model.options**2 > MOST_ENTRIES or model.options > FEW:
            raise too_large("markov", model)
        return [(1, model.options), *[(model.options, model.options)] * (model.stages - 1)]

    @classmethod
    def tables_of(cls, model: Model, prior: Markov) -> bytes:
        """Return the frequencies of the prior."""
        cls.shapes(model)
        return cls.packed(model, [prior.first.exp()[None], *prior.later.exp()])
