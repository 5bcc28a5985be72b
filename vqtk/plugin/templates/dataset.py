"""A data set: train and test examples, and what a model must know of them.

In a recipe: `plugins: [example.py]`, and `data: {name: example, batch: 32}`.
"""

from pathlib import Path

import torch

from vqtk.datasets import Dataset, Held, Splits
from vqtk.nn.types import Count, DataSpec, Whole
from vqtk.registry import datasets


@datasets.register("example", example={"items": 64, "test": 16})
class Example(Dataset):
    """Images of 28×28 with one bright rectangle each, drawn from a seed: `items` to train on, `test` to test on.

    Shapes: examples (1, 28, 28), uint8; training units (pixel - 0.15) / 0.35.
    """

    # A recipe may set the parameters after the `*`, and for every data set `batch`.
    def __init__(self, *, items: Count = 10_000, test: Count = 1_000, seed: Whole = 0):
        self.items, self.test, self.seed = items, test, seed

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (1, 28, 28), mean=0.15, std=0.35)

    def count(self, root: Path) -> int:
        """Return the number of examples."""
        return self.items + self.test

    def load(self, root: Path) -> Splits:
        """Draw the examples. A data set of files reads them below `root`, and raises DataError if they are missing."""
        generator = torch.Generator().manual_seed(self.seed)
        train, test = (Held(_rectangles(n, generator)) for n in (self.items, self.test))
        return Splits(train, test, source=f"drawn with seed {self.seed}")


def _rectangles(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return images (n, 1, 28, 28) in [0, 255]."""
    corner, size = (torch.randint(low, high, (n, 2), generator=generator) for low, high in ((0, 16), (4, 13)))
    along = torch.arange(28)
    inside = (along >= corner[..., None]) & (along < (corner + size)[..., None])
    return (255 * (inside[:, 0, :, None] & inside[:, 1, None, :])).to(torch.uint8)[:, None]
