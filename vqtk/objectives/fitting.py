"""The objective of models that are fitted as a whole: to the first batch, and then the loss of the whole code."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.faiss import Faiss, require_faiss
from vqtk.nn.stage import State
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives


@objectives.register("fitting")
class Fitting(Objective):
    """Fit codebooks by faiss to the first batch; the loss is that of the whole code (`final`).

    Make the first batch the training set: `data.batch` the number of its examples and `train.updates: 1`. With the
    schedule `{name: linear, final: 0}` the only step of the optimiser has rate 0, so the codebooks stay as faiss left
    them. In a study, `equal: {items: N}` and `data.batch=N` do so beside models that are trained in small batches. More
    updates train the codebooks further by gradient descent, with codes found again for each batch.

    Raises: ShapeError if the model is not fitted by faiss; VqtkError if the extra `vectors` is not installed.
    """

    def __init__(self, model: Faiss, load: Load):
        if not isinstance(model, Faiss):
            raise ShapeError(f"{type(model).__name__} is not fitted by faiss. Use `model: {{name: faiss, …}}`.")
        require_faiss()
        self.model = model

    def start(self, batches: Sequence[Tensor], draws: torch.Generator) -> None:
        """Fit the model to the first batch if it is not fitted."""
        if not self.model.fitted and len(batches[0]) > 1:  # A study counts its cost by one example, which fits nothing.
            self.model.fit(batches[0])

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Encode and decode."""
        codes = self.model.encode(batch)
        final = self.model.loss(self.model.decode(codes)[:, None], batch).mean()
        return Pass(final, {"final": final}, codes)
