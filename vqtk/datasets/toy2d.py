"""Points in the plane, drawn from densities that are easy to recognise."""

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
    """Points in the plane, `items` to train on and `test` to test on, drawn by `seed` whenever they are loaded.

    Their labels are the parts of the density that they come from: the moon, ring, arm, square, blob or blade. The
    density `image` is that of an image: the darker, the denser. `path` is the image, absolute, or below the data root
    or the working directory; its largest centred square is used, and there are no labels. No other density needs files.

    Shapes: examples (2,), x to the right and y up, float32; training units, from about -1 to 1.
    Raises: DataError if the image is missing, cannot be read, or has a single grey value.
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
            problem = "is needed: the image to draw from" if path is None else "is for `density: image` only"
            raise DataError(f"data.density is {density!r}: `path` {problem}.")
        self.density, self.path, self.items, self.test, self.seed = density, path, items, test, seed

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("points", (2,))

    @property
    def bytes_per_item(self) -> int:
        """The bytes of a point in memory."""
        return 8

    def count(self, root: Path) -> int:
        """Return the number of points."""
        return self.items + self.test

    def load(self, root: Path) -> Splits:
        """Draw the points. Each split depends only on its own size and the seed."""
        image = None if self.path is None else _image(required(self.path, root, expected="an image"))
        sizes = (self.items, self.test)
        train, test = (self._drawn(n, np.random.default_rng([self.seed, i]), image) for i, n in enumerate(sizes))
        return Splits(train, test, source=f"drawn from {self.path or self.density} with seed {self.seed}")

    def _drawn(self, n: int, random: np.random.Generator, image: np.ndarray | None) -> Held:
        if image is not None:
            return Held(torch.from_numpy(darkness(image, n, random)).float())
        points, parts = DENSITIES[self.density](n, random)
        return Held(torch.from_numpy(points).float(), torch.from_numpy(parts))


def _image(path: Path) -> np.ndarray:
    """Return an image as grey values (side, side) from 0 to 255. Raises: DataError if it cannot be a density."""
    grey = read_image(path, size=_SIDE, colours="grey")[0].numpy()
    if grey.min() == grey.max():
        raise DataError(
            f"{path} has a single grey value, so no part of it is darker than another. Expected an image that is dark "
            "where points should be."
        )
    return grey
