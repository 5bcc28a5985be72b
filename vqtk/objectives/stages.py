"""The objective of VQ-DRAW: each stage's best option, and a little of all others."""

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import State
from vqtk.nn.types import Count, NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives
from vqtk.selectors import Selector
from vqtk.selectors.argmin import Argmin


@objectives.register("stages")
class Stages(Objective):
    """Each stage's smallest loss (`choice`), the mean over all options (`all`), the last stage's smallest (`final`).

    The loss is their sum, weighted by these coefficients. `sampled: m` takes the gradient of `all` over m options,
    drawn uniformly for each example and stage: on average it is the full one, and the backward pass computes only
    these and the best option. What is reported remains the mean over all options.

    Raises: ShapeError if the model has no stages to walk through.
    Source: Nichol 2020, arXiv 2003.01599, section 3.
    """

    def __init__(
        self,
        model: VQDraw,
        load: Load,
        *,
        choice: NonNegative = 1.0,
        all: NonNegative = 0.01,
        final: NonNegative = 0.0,
        sampled: Count | None = None,
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
        self.sampled = sampled

    @property
    def explores(self) -> bool:
        """Whether the recipe's selector draws anything, or options are drawn."""
        return self.sampled is not None or type(self.model.selector).draw is not Selector.draw

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> tuple[Tensor | None, Tensor | None]:
        """Return what the recipe's selector explores by, and the options (n, stages, m) that are drawn."""
        chosen = self.model.draw(n, generator, progress=progress)
        if self.sampled is None:
            return chosen, None
        shape = (n, self.model.stages, self.sampled)
        return chosen, torch.randint(self.model.options, shape, generator=generator)

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Walk through the stages."""
        chosen, options = draws or (None, None)
        walk = self.model.walk(batch, selector=self.selector, draws=chosen, sampled=options, recompute=recompute)
        terms = {"choice": walk.choice, "final": walk.final, "all": walk.all}
        minimised = terms if walk.sampled is None else {**terms, "all": walk.sampled.mean()}
        weighted = [weight * minimised[name] for name, weight in self.weights.items() if weight]
        return Pass(torch.stack(weighted).sum(), terms, walk.best)
