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
    """The loss of the reconstruction (`final`), plus terms that pull codebooks and encoder towards each other.

    `codebook` is the weight of the squared distance with its gradient for the codebooks, `commitment` that of the same
    distance with its gradient for the encoder. A model's prior is trained at the same time: its mean nats per stage are
    added, and have a gradient only for the prior. The log has `prior_nats`, those of an example's whole code.

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
        """Encode and decode, and score the codes under the prior."""
        return Pass(*self._measured(batch))

    def _measured(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        found = self.model.quantise(batch)
        decoded = self.model.reconstruct(found.vectors)
        terms = {
            "final": self.model.loss(decoded[:, None], batch).mean(),
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
        """Return the terms on test examples except the reconstruction, which every evaluation measures."""
        _, terms, _ = self._measured(targets())
        return {name: value.item() for name, value in terms.items() if name != "final"}
