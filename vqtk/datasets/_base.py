"""What every data set is: a spec, and train and test splits."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets._paths import expanded, user_cache
from vqtk.datasets._split import HELD_AT_MOST, WORKERS, Split, sha256
from vqtk.errors import DataError, nearest
from vqtk.nn.types import DataSpec
from vqtk.process import generator


@dataclass
class Splits:
    """A data set's train and test items, and where they came from.

    `note` is one line for the user if they are not the official complete set. `characters` is the vocabulary of
    text: the character of each token index. `labels` are the names of the labels, in order, where they have any.
    `units` are the mean and std of each channel that stored values were normalised by, where they were.
    """

    train: Split
    test: Split
    source: str
    note: str | None = None
    characters: str | None = None
    labels: tuple[str, ...] | None = None
    units: dict[str, list[float]] | None = None

    def label(self, wanted: int | str) -> int:
        """Return a label by its name, or, where the names are not numbers themselves, by its number.

        Raises: DataError if the data have no labels, or no such one.
        """
        labels = self.train.labels
        if labels is None:
            raise DataError(f"{self.source} has no labels, and so none that is {wanted!r}.")
        names = list(self.labels or map(str, range(int(labels.max()) + 1)))
        numbered = isinstance(wanted, int) and 0 <= wanted < len(names) and not all(map(str.isdecimal, names))
        if str(wanted) not in names and not numbered:
            advice = nearest(str(wanted), names)
            known = shortened_list(names) if self.labels else f"0 to {len(names) - 1}"
            raise DataError(f"`wanted` is {wanted!r}, and the classes of these data are {known}. {advice}".strip())
        found = names.index(str(wanted)) if str(wanted) in names else int(wanted)
        if not (labels == found).any():
            raise DataError(f"no training example in {self.source} has the label {names[found]!r}.")
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Return the counts, the source, and a SHA-256 of what the items are."""
        facts = {
            "train_items": len(self.train),
            "test_items": len(self.test),
            "sha256": sha256(self.train, self.test),
            "source": self.source,
            "note": self.note,
        }
        if self.labels:
            facts["labels"] = list(self.labels)
        if self.units:
            facts["units"] = self.units
        skipped = self.train.skipped + self.test.skipped
        if skipped:
            facts["skipped"] = {"count": len(skipped), "first": skipped[:10]}
        return facts


def shortened_list(names: Sequence[str], most: int = 20) -> str:
    """Return names in a line, at most the first `most`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name[:40] for name in names[:most]) + more


class Dataset(ABC):
    """A data set by name; nothing is read before `load`.

    `path` is where a recipe says that its own files are. It is empty for a set with a place of its own below the data
    root, and None where nothing is read.
    """

    path: str | None = ""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What a model must know of the items."""

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the items under `root`, downloading them there if need be. Raises: DataError."""

    def count(self, root: Path) -> int | None:
        """Return how many items there are under `root`, or in the complete set; None if that is not known.

        It is quick: files are counted, not read.
        """
        return None

    def plan(self, root: Path) -> str:
        """Return in words how the items are read, and the memory that it takes."""
        items = self.count(root)
        if items is None:
            return f"none found yet; in memory up to {HELD_AT_MOST >> 30} GiB, by {WORKERS} worker processes beyond"
        held = items * self.bytes_per_item
        size = f"{items:,} items of {self.bytes_per_item:,} bytes = {megabytes(held)}"
        if held <= HELD_AT_MOST:
            return f"in memory as bytes, {size}"
        return f"read from disk by {WORKERS} worker processes, {size}"

    @property
    def bytes_per_item(self) -> int:
        """Bytes that an item takes in memory."""
        return prod(self.spec.shape)


def megabytes(count: int) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def data_root(given: Path | None = None, *, of: Dataset | None = None) -> Path:
    """Return the folder that data sets lie in: the one given, $VQTK_DATA, or ~/.cache/vqtk/data.

    Raises: DataError if one that was asked for is not there; for $VQTK_DATA, and for a home, only if the data set
    `of`, where it is known, is read from below it.
    """
    needed = of is None or _is_below_root(of)
    asked = given or (Path(os.environ["VQTK_DATA"]) if os.environ.get("VQTK_DATA") else None)
    if asked is None:
        return user_cache() / "data" if needed else Path()
    root = expanded(asked)
    if not root.is_dir() and (given or needed):
        name = "--data-dir" if given else "VQTK_DATA"
        raise DataError(f"{name} is {asked}, which is no folder. Expected the folder that the data sets lie in.")
    return root


def _is_below_root(dataset: Dataset) -> bool:
    return dataset.path is not None and not expanded(Path(dataset.path)).is_absolute()


def fixed_subset(split: Split, items: int, seed: int) -> Tensor:
    """Return the indices of a seeded subset of a split, in a seeded order; all of it if it is no larger."""
    return torch.randperm(len(split), generator=generator(seed, "evaluate"))[:items]
