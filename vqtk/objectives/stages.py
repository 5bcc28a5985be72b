"""The objective of VQ-DRAW: each stage's best option, and a little of all others."""

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives
from vqtk.selectors._base import Selector
from vqtk.selectors.argmin import Argmin


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
        if not (choice or all or final):
            raise ShapeError("`choice`, `all` and `final` are all 0: there is nothing to minimise. Give one a weight.")
        self.model = model
        # The smallest loss needs no selector: the walk takes it by itself.
        self.selector = None if isinstance(model.selector, Argmin) else model.selector
        self.weights = {"choice": choice, "all": all, "final": final}

    @property
    def explores(self) -> bool:
        """Whether the recipe's selector draws anything."""
        return type(self.model.selector).draw is not Selector.draw

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what the recipe's selector explores by."""
        return self.model.draw(n, generator, progress=progress)

    def __call__(self, batch: Tensor, *, draws: Tensor | None, recompute: int) -> Pass:
        """Walk through the stages."""
        walk = self.model.walk(batch, selector=self.selector, draws=draws, recompute=recompute)
        terms = {"choice": walk.choice, "final": walk.final, "all": walk.all}
        weighted = [weight * terms[name] for name, weight in self.weights.items() if weight]
        return Pass(torch.stack(weighted).sum(), terms, walk.best)
