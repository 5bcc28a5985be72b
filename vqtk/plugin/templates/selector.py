"""A selector: chooses the option that an example takes at a stage, in training. Encoding does not use it.

In a recipe: `plugins: [example.py]`, and `selector: {name: example, share: 0.1}` in `model`.
"""

import torch
from torch import Tensor

from vqtk.nn.types import Fraction
from vqtk.registry import selectors
from vqtk.selectors import Selector


@selectors.register("example", example={"share": 0.5})
class Example(Selector):
    """Take the second best option with a probability that falls from `share` to 0 during training.

    Shapes: grid (n, k), draws (n,): whether the second best is taken → codes (n,) in [0, k).
    """

    # A recipe may set the parameters after the `*`.
    def __init__(self, *, share: Fraction = 0.05):
        self.share = share

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return which examples take the second best option at each stage: (n, stages). All that is random is here."""
        return torch.rand(n, stages, generator=generator) < self.share * (1 - progress)

    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Select."""
        best = grid.topk(min(2, grid.shape[1]), dim=1, largest=False).indices
        return best[:, 0] if draws is None else torch.where(draws, best[:, -1], best[:, 0])
