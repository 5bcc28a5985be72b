"""A selector that explores less and less: a sample of a softmax over the options, at a falling temperature.

An example of a selector with draws. What is random is drawn beforehand, so that a stage can be computed again.
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
    """An option of probability softmax(-loss / temperature); the temperature goes from `start` to `end` in training.

    It goes by equal factors (`geometric`) or by equal steps (`linear`), in units of the loss. At temperature 0 the
    option of the smallest loss is taken. Only the path explores; what training minimises is that of the best options.

    Shapes: grid (n, k), draws (n, k): Gumbel noise times the temperature → codes (n,) in [0, k).
    Raises: VqtkError if the temperature is to fall to 0, or to rise from it, geometrically.
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
                f"no factor leads from temperature {start:g} to {end:g}. Give `start` and `end` above 0, or "
                "`anneal: linear`."
            )
        self.start, self.end, self.anneal = start, end, anneal

    def temperature(self, progress: float) -> float:
        """Return the temperature when that part of the training, from 0 to 1, is done."""
        if self.anneal == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * (self.end / self.start) ** progress

    def draw(self, n: int, stages: int, options: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return Gumbel noise times the temperature: (n, stages, options)."""
        gumbel = -torch.empty(n, stages, options).exponential_(generator=generator).log()
        return gumbel * self.temperature(progress)

    def __call__(self, grid: Tensor, draws: Tensor | None) -> Tensor:
        """Select: the noise makes the smallest sum a sample of the softmax."""
        return (grid if draws is None else grid - draws).argmin(1)
