"""The objective of VQ-DRAW: each stage's best option, and a little of all others."""

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives


@objectives.register("stages")
class Stages(Objective):
    """Each stage's smallest loss (`choice`), the mean over all options (`all`), the last stage's smallest (`final`).

    The loss is their sum, weighted by these coefficients.

    Raises: ShapeError if the model has no stages to walk through.
    Source: Nichol 2020, arXiv 2003.01599, section 3.
    """

    def __init__(
        self, model: VQDraw, load: Load, *, choice: NonNegative = 1.0, all: NonNegative = 0.01, final: NonNegative = 0.0
    ):
        if not model.stepwise:
            raise ShapeError(
                f"{type(model).__name__} has no stages to walk through. Give `train.objective` a name: "
                "quantisation for vqvae and residual_vq, distillation for distilled."
            )
        self.model = model
        self.weights = {"choice": choice, "all": all, "final": final}

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what the recipe's selector explores by."""
        return self.model.draw(n, generator, progress=progress)

    def __call__(self, batch: Tensor, *, draws: Tensor | None, checkpoint: bool) -> Pass:
        """Walk through the stages."""
        walk = self.model(batch, draws=draws, checkpoint=checkpoint)
        quantities = walk.quantities()
        terms = {"choice": quantities.choice, "final": quantities.final, "all": quantities.all}
        return Pass(quantities.objective(**self.weights), terms, walk.usage())
