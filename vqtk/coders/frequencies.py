"""The frequencies of each stage's options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqtk.coders._entropy import MOST_ENTRIES, Tabled, too_large
from vqtk.models import Model
from vqtk.registry import coders

if TYPE_CHECKING:
    from vqtk.sampling.prior import Markov


@coders.register("frequencies")
class Frequencies(Tabled):
    """How often training examples choose each option, stage by stage, as the Markov prior knows it.

    Raises: VqtkError if the tables are too large, or constriction is not installed.
    """

    @classmethod
    def shapes(cls, model: Model) -> list[tuple[int, int]]:
        """Return one row for each stage."""
        if model.stages * model.options > MOST_ENTRIES:
            raise too_large("frequencies", model)
        return [(1, model.options)] * model.stages

    @classmethod
    def tables_of(cls, model: Model, prior: Markov) -> bytes:
        """Return the frequencies of each stage under a Markov prior."""
        rows = [prior.first.exp()[None]]
        for table in prior.later:
            rows.append(rows[-1] @ table.exp())
        return cls.packed(model, rows)
