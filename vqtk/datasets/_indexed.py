"""Images of other libraries' data sets, by index: held in memory if they fit, otherwise read when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from vqtk.datasets._base import Dataset
from vqtk.datasets._paths import because
from vqtk.datasets._pixels import fitted
from vqtk.datasets._split import HELD_AT_MOST, WORKERS, Held, Split
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec, Side


class OtherImages(Dataset):
    """Images of another library, cropped and scaled as those of a folder are."""

    def __init__(
        self,
        *,
        size: Side = 32,
        crop: Literal["centre", "none"] = "centre",
        colours: Literal["rgb", "grey"] = "rgb",
    ):
        self.size, self.crop, self.colours = size, crop, colours

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (1 if self.colours == "grey" else 3, self.size, self.size), mean=0.5, std=0.5)

    def split(self, count: int, image: Callable[[int], Any], label: Callable[[int], Any] | None, where: str) -> Split:
        """Return a split of `count` images, given functions of an index, and of its label if there are labels.

        Raises: DataError if an example is no image; `where` names the split.
        """
        read = partial(_read, image, partial(fitted, size=self.size, crop=self.crop, colours=self.colours), where)
        labels = None if label is None else _labels([label(index) for index in range(count)])
        if count * prod(self.spec.shape) > HELD_AT_MOST:
            return Indexed(count, read, labels, where)
        items = torch.empty((count, *self.spec.shape), dtype=torch.uint8)
        for index in range(count):
            items[index] = read(index)
        return Held(items, labels)


class Indexed(Split):
    """Examples that a function returns by index, called by worker processes during training."""

    workers = WORKERS

    def __init__(self, count: int, read: Callable[[int], Tensor], labels: Tensor | None, where: str):
        super().__init__(labels)
        self.count, self.read, self.where = count, read, where

    def __len__(self) -> int:
        return self.count

    def examples(self, indices: Tensor) -> Tensor:
        """Read examples by their indices."""
        return torch.stack([self.read(index) for index in indices.tolist()])

    def add_to(self, digest: Any) -> None:
        """Add the name and the number of the examples, and the first of them; reading all takes as long as an epoch."""
        digest.update(f"{self.where} {self.count}".encode())
        digest.update(self[torch.arange(min(16, self.count))].numpy().data)


def _read(image: Callable[[int], Any], fit: Callable[[Any], Tensor], where: str, index: int) -> Tensor:
    try:
        return fit(image(index))
    except Exception as error:  # Other libraries' readers raise anything.
        raise DataError(f"{where}: example {index} cannot be read as an image ({because(error)}).") from None


def _labels(found: Sequence[Any]) -> Tensor | None:
    """Return labels as numbers; None if they are anything else."""
    if not all(isinstance(label, int) and label >= 0 for label in found):
        return None
    return torch.tensor(found, dtype=torch.int64)
