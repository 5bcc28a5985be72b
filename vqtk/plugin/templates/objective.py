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
    """The smallest loss of each stage, weighted from 1 at the first stage to `emphasis` at the last.

    `all` is the weight of the mean over every option, which pulls unused options back into use.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, model: VQDraw, load: Load, *, emphasis: NonNegative = 2.0, all: NonNegative = 0.01):
        self.model = model
        self.emphasis, self.all = emphasis, all

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return the draws of the recipe's selector."""
        return self.model.draw(n, generator, progress=progress)

    def __call__(self, batch: Tensor, *, draws: Tensor | None, recompute: int) -> Pass:
        """Encode a batch (n, *data shape) in training units."""
        walk = self.model(batch, draws=draws, recompute=recompute)
        smallest = walk.grid.min(2).values.mean(0)
        weights = torch.linspace(1, self.emphasis, len(smallest), device=batch.device)
        weighted = (weights * smallest).sum() / weights.sum()
        terms = {"choice": walk.choice, "final": walk.final, "all": walk.all, "weighted": weighted}
        return Pass(weighted + self.all * walk.all, terms, walk.best)
