"""The objective of models with codebooks: reconstruction, codebook, commitment, and the prior's nats."""

from collections.abc import Callable, Sequence

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

    `commitment` is the weight of the squared distance with its gradient for the encoder, `codebook` that of the same
    distance with its gradient for the codebooks. A model with `codebook: ema` leaves the latter out, because its
    codebooks have no gradient: they follow the encoder by moving averages, once an update, from all of its examples. A
    model's prior is trained at the same time: its mean nats per stage are added, and have a gradient only for the
    prior. The log has `prior_nats`, those of an example's whole code.

    Raises: ShapeError if the model has no codebooks.
    Source: van den Oord et al. 2017, arXiv 1711.00937, equation 3.
    """

    def __init__(self, model: Quantised, load: Load, *, codebook: NonNegative = 1.0, commitment: NonNegative = 0.25):
        if not isinstance(model, Quantised):
            raise ShapeError(
                f"{type(model).__name__} has no codebooks. Use `model: {{name: vqvae, …}}` or residual_vq."
            )
        self.model = model
        self.codebook, self.commitment = codebook, commitment

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Encode and decode, and score the codes under the prior."""
        return self._measured(batch)

    def start(self, batches: Sequence[Tensor], draws: torch.Generator) -> None:
        """Find the first vectors of the codebooks."""
        self.model.start_codebooks(torch.cat(list(batches)), draws)

    def after_update(self, passes: Sequence[Pass], draws: torch.Generator) -> None:
        """Move the codebooks, once for all examples of the update."""
        encoded = [passed.encoded for passed in passes if passed.encoded is not None]
        self.model.update_codebooks(torch.cat(encoded), torch.cat([passed.codes for passed in passes]), draws)

    def _measured(self, batch: Tensor) -> Pass:
        found = self.model.quantise(batch)
        decoded = self.model.reconstruct(found.vectors)
        terms = {"final": self.model.loss(decoded[:, None], batch).mean(), "commitment": found.commitment}
        loss = terms["final"] + self.commitment * found.commitment
        if self.model.learned:
            terms["codebook"] = found.codebook
            loss = loss + self.codebook * found.codebook
        if self.model.prior is not None:
            nats = self.model.code_nats(found.codes)
            loss = loss + nats.mean()
            terms["prior_nats"] = nats.sum(1).mean()
        return Pass(loss, terms, found.codes, found.encoded)

    @torch.no_grad()
    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return the terms on test examples except the reconstruction, which every evaluation measures."""
        terms = self._measured(targets()).terms
        return {name: value.item() for name, value in terms.items() if name != "final"}
