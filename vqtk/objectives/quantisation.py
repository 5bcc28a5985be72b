"""The objective of models with codebooks: reconstruction, codebook, commitment, and the prior's nats."""

from collections.abc import Callable

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models import Quantised
from vqtk.nn.stage import State
from vqtk.nn.types import NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives


@objectives.register("quantisation")
class Quantisation(Objective):
    """The loss of the reconstruction (`final`), and what draws codebooks and encoder to each other.

    `codebook` weighs the squared distance that the codebooks' vectors are to shorten, `commitment` the one that the
    encoder is to. A model's prior learns at the same time, from codes that it does not change: its nats a stage are
    added, and have no gradient by anything else. Reported as `prior_nats`, an item's.

    Raises: ShapeError if the model has no codebooks.
    Source: van den Oord et al. 2017, arXiv 1711.00937, equation 3.
    """

    def __init__(self, model: Quantised, load: Load, *, codebook: NonNegative = 1.0, commitment: NonNegative = 0.25):
        if not isinstance(model, Quantised):
            raise ShapeError(
                f"{type(model).__name__} has no codebooks. Use `model: {{name: vqvae, …}}` or residual_vq."
            )
        self.model = model
        self.weights = {"codebook": codebook, "commitment": commitment}

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Encode and decode, and score the codes by the prior."""
        return Pass(*self._measured(batch))

    def _measured(self, items: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        found = self.model.quantise(items)
        decoded = self.model.reconstruct(found.vectors)
        terms = {
            "final": self.model.loss(decoded[:, None], items).mean(),
            "codebook": found.codebook,
            "commitment": found.commitment,
        }
        loss = terms["final"] + sum(weight * terms[name] for name, weight in self.weights.items())
        if self.model.prior is not None:
            nats = self.model.code_nats(found.codes)
            loss = loss + nats.mean()
            terms["prior_nats"] = nats.sum(1).mean()
        return loss, terms, found.codes

    @torch.no_grad()
    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return the terms on test items but for the reconstruction, which is measured of all."""
        _, terms, _ = self._measured(targets())
        return {name: value.item() for name, value in terms.items() if name != "final"}
