"""Points of the plane, drawn from densities that are easily seen."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._densities import DENSITIES, darkness
from vqtk.datasets._paths import required
from vqtk.datasets._pixels import read_image
from vqtk.datasets._split import Held
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec, Drawn, Whole
from vqtk.registry import datasets

_SIDE = 256


@datasets.register("toy2d", example={"items": 64, "test": 16})
class Toy2D(Dataset):
    """Points of the plane, `items` to train on and `test` to test on, drawn anew by `seed`; no files are needed.

    Their labels are the parts of the density that they come from: the moon, ring, arm, square, blob or blade. The
    density `image` is a picture's: the darker, the denser. `path` is that picture, absolute, or below the data root
    or the working directory; its largest centred square is taken, and there are no labels.

    Shapes: items (2,), x to the right and y up, float32; training units, from about -1 to 1.
    Raises: DataError if the picture is missing, cannot be read, or is all of one grey.
    """

    def __init__(
        self,
        *,
        density: Literal["moons", "rings", "spiral", "checkerboard", "gaussians", "pinwheel", "image"] = "moons",
        path: str | None = None,
        items: Drawn = 20_000,
        test: Drawn = 2_000,
        seed: Whole = 0,
    ):
        if (path is not None) != (density == "image"):
            told = "is needed: the picture to draw from" if path is None else "belongs to `density: image` alone"
            raise DataError(f"data.density is {density!r}: `path` {told}.")
        self.density, self.path, self.items, self.test, self.seed = density, path, items, test, seed

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        return DataSpec("points", (2,))

    @property
    def bytes_per_item(self) -> int:
        """Bytes that a point takes in memory."""
        return 8

    def count(self, root: Path) -> int:
        """Return how many points are drawn."""
        return self.items + self.test

    def load(self, root: Path) -> Splits:
        """Draw the points. Either split depends on its own size and the seed alone."""
        picture = None if self.path is None else _picture(required(self.path, root, expected="a picture"))
        sizes = (self.items, self.test)
        train, test = (self._drawn(n, np.random.default_rng([self.seed, i]), picture) for i, n in enumerate(sizes))
        return Splits(train, test, source=f"drawn from {self.path or self.density} with seed {self.seed}")

    def _drawn(self, n: int, random: np.random.Generator, picture: np.ndarray | None) -> Held:
        if picture is not None:
            return Held(torch.from_numpy(darkness(picture, n, random)).float())
        points, parts = DENSITIES[self.density](n, random)
        return Held(torch.from_numpy(points).float(), torch.from_numpy(parts))


def _picture(path: Path) -> np.ndarray:
    """Return a picture as grey values (side, side) from 0 to 255. Raises: DataError if it can be no density."""
    grey = read_image(path, size=_SIDE, colours="grey")[0].numpy()
    if grey.min() == grey.max():
        raise DataError(
            f"{path} is all of one grey: no part of it is darker than another. Expected a picture, dark where points "
            "are to be."
        )
    return grey
