"""An objective: what training minimises.

In a recipe: `plugins: [example.py]`, and `objective: {name: example, emphasis: 2}` in `train`.
"""

import torch
from torch import Tensor

from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import NonNegative
from vqtk.objectives import Load, Objective, Pass
from vqtk.registry import objectives


@objectives.register("example")
class Example(Objective):
    """Each stage's smallest loss, later stages counting more: from 1 at the first one to `emphasis` at the last.

    `all` weighs the mean over every option, which keeps unused options in play.
    """

    # What stands before the `*` is supplied by the toolkit; what stands behind it is what a recipe may set.
    def __init__(self, model: VQDraw, load: Load, *, emphasis: NonNegative = 2.0, all: NonNegative = 0.01):
        self.model = model
        self.emphasis, self.all = emphasis, all

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what the recipe's selector explores by."""
        return self.model.draw(n, generator, progress=progress)

    def __call__(self, batch: Tensor, *, draws: Tensor | None, recompute: int) -> Pass:
        """Walk through the stages: batch (n, *data shape) in training units."""
        walk = self.model(batch, draws=draws, recompute=recompute)
        smallest = walk.grid.min(2).values.mean(0)
        weights = torch.linspace(1, self.emphasis, len(smallest), device=batch.device)
        weighted = (weights * smallest).sum() / weights.sum()
        terms = {"choice": walk.choice, "final": walk.final, "all": walk.all, "weighted": weighted}
        return Pass(weighted + self.all * walk.all, terms, walk.best)
