"""A search: finds the codes of a target, over all stages. A trained model encodes by it.

In a recipe: `plugins: [example.py]`, and `search: {name: example, tries: 4}` in `model`.
"""

from functools import partial

import torch
from torch import Tensor

from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import Count
from vqtk.registry import searches


@searches.register("example", example={"tries": 2})
class Example:
    """Continue greedily from each of the `tries` best options of the first stage, and keep the best result.

    Shapes: target (n, *data shape) → codes (n, stages).
    """

    # A recipe may set the parameters after the `*`.
    def __init__(self, *, tries: Count = 4):
        self.tries = tries

    def __call__(self, model: VQDraw, target: Tensor) -> Tensor:
        """Encode."""
        walks = [
            model.walk(target, selector=partial(_start_from, rank, []))
            for rank in range(min(self.tries, model.options))
        ]
        losses = torch.stack([walk.grid[:, -1].gather(1, walk.codes[:, -1:])[:, 0] for walk in walks])
        codes = torch.stack([walk.codes for walk in walks])
        return codes[losses.argmin(0), torch.arange(len(target), device=codes.device)]


def _start_from(rank: int, begun: list[bool], grid: Tensor, draws: Tensor | None) -> Tensor:
    """Take the option with that rank at the first stage, and the best one at all others."""
    first = not begun
    begun.append(True)
    return grid.argsort(1)[:, rank] if first else grid.argmin(1)
