"""What every data set is: a spec, and splits of items held in memory."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vqtk.errors import DataError
from vqtk.nn.types import DataSpec


@dataclass
class Split:
    """Items held in memory as stored: (n, *shape), uint8 for images; `labels` (n,) where there are any."""

    items: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.items.to(device), None if self.labels is None else self.labels.to(device))


@dataclass
class Splits:
    """A data set's train and test items, where they came from, and a hash of their content.

    `note` is one line for the user if they are not the official complete set.
    """

    train: Split
    test: Split
    source: str
    note: str | None = None

    def fingerprint(self) -> dict[str, str | int | None]:
        """Return the counts, the source, and a SHA-256 of all items."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.items.cpu().numpy().data)
        return {
            "train_items": len(self.train),
            "test_items": len(self.test),
            "sha256": digest.hexdigest(),
            "source": self.source,
            "note": self.note,
        }


class Dataset(ABC):
    """A data set by name; nothing is read before `load`."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What a model must know of the items."""

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the items under `root`, downloading them there if need be. Raises: DataError."""


class LaterDataset(Dataset):
    """A data set whose spec is known, so that its recipe can be built and checked, but which is not read yet."""

    def load(self, root: Path) -> Splits:
        """Refuse. Raises: DataError."""
        raise DataError(
            f"vqtk does not read the {type(self).__name__} data yet, so its recipe cannot be trained; `vqtk show` and "
            "`vqtk validate` work on it. To train now, take recipes/mnist.yaml."
        )


def data_root(given: Path | None = None) -> Path:
    """Return the folder that data sets lie in: the one given, $VQTK_DATA, or ~/.cache/vqtk/data.

    Raises: DataError if one that was asked for is not there.
    """
    asked = given or (Path(os.environ["VQTK_DATA"]) if os.environ.get("VQTK_DATA") else None)
    if asked is None:
        return Path.home() / ".cache" / "vqtk" / "data"
    if not asked.expanduser().is_dir():
        name = "--data-dir" if given else "VQTK_DATA"
        raise DataError(f"{name} is {asked}, which is no folder. Expected the folder that the data sets lie in.")
    return asked.expanduser()
