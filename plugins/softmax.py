"""A selector that explores less and less: a sample from a softmax over the options, at a falling temperature.

An example of a selector with draws. They are made in advance, so that a stage can be recomputed.
"""

from typing import Literal

import torch
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.nn.types import NonNegative
from vqtk.registry import selectors
from vqtk.selectors import Selector


@selectors.register("softmax", example={"start": 0.5, "end": 0.1})
class Softmax(Selector):
    """Sample an option with probability softmax(-loss / temperature); the temperature anneals from `start` to `end`.

    It changes by equal factors (`geometric`) or by equal steps (`linear`), in units of the loss. At temperature 0 the
    option with the smallest loss is taken. Only the path explores; training minimises the loss of the best options.

    Shapes: grid (n, k), draws (n, k): Gumbel noise times the temperature → codes (n,) in [0, k).
    Raises: VqtkError if `start` or `end` is 0 and the annealing is geometric.
    Source: the Gumbel-max trick, Maddison et al. 2014, A* Sampling.
    """

    def __init__(
        self,
        *,
        start: NonNegative = 0.01,
        end: NonNegative = 1e-5,
        anneal: Literal["geometric", "linear"] = "geometric",
    ):
        if anneal == "geometric" and not start * end:
            raise VqtkError(
                f"geometric annealing cannot go from temperature {start:g} to {end:g}. Set `start` and `end` above 0, "
                "or `anneal: linear`."
            )
        self.start, self.end, self.anneal = start, end, anneal

    def temperature(self, progress: float) -> float:
        """Return the temperature at a fraction of the training, from 0 to 1."""
        if self.anneal == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * (self.end / self.start) ** progress

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return Gumbel noise times the temperature: (n, stages, options)."""
        gumbel = -torch.empty(n, stages, options).exponential_(generator=generator).log()
        return gumbel * self.temperature(progress)

    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Select: with the noise, the argmin is a sample from the softmax."""
        return (grid if draws is None else grid - draws).argmin(1)
