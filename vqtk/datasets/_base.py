"""The base class of data sets: a spec, and train and test splits."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets._paths import existing, expanded, nothing_at, user_cache
from vqtk.datasets._split import HELD_AT_MOST, WORKERS, Split, sha256
from vqtk.errors import DataError, nearest
from vqtk.nn.types import DataSpec
from vqtk.process import generator


@dataclass
class Splits:
    """The train and test examples of a data set.

    Arguments:
        train: the train split.
        test: the test split.
        validation: examples held out of the train split, for evaluations during training; None without any.
        source: where they came from.
        note: a line for the user if they are not the complete official set, or files were skipped.
        characters: the vocabulary of text: the character of each token index.
        labels: the names of the labels, in order, if they have names.
        units: the mean and std of each channel by which stored values were normalised, if they were.
        queries: vectors whose nearest neighbours among the test examples are searched for, if there are any.
    """

    train: Split
    test: Split
    source: str
    note: str | None = None
    characters: str | None = None
    labels: tuple[str, ...] | None = None
    units: dict[str, list[float]] | None = None
    queries: Split | None = None
    validation: Split | None = None

    @property
    def watched(self) -> Split:
        """The examples of evaluations during training: the validation split, or without one the test split."""
        return self.test if self.validation is None else self.validation

    def label(self, wanted: int | str) -> int:
        """Return the label of a class, given by its name, or by its number if the names are not numbers themselves.

        Raises: DataError if the data have no labels, or not this one.
        """
        labels = self.train.labels
        if labels is None:
            raise DataError(
                f"`wanted` is {wanted!r}, and the data in {self.source} have no labels. Use data with labels."
            )
        names = list(self.labels or map(str, range(int(labels.max()) + 1)))
        numbered = isinstance(wanted, int) and 0 <= wanted < len(names) and not all(map(str.isdecimal, names))
        if str(wanted) not in names and not numbered:
            advice = nearest(str(wanted), names)
            known = shortened_list(names) if self.labels else f"0 to {len(names) - 1}"
            raise DataError(f"`wanted` is {wanted!r}; expected a class of these data: {known}. {advice}".strip())
        found = names.index(str(wanted)) if str(wanted) in names else int(wanted)
        if not (labels == found).any():
            raise DataError(f"no training example in {self.source} has the label {names[found]!r}. Choose another.")
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Return the counts, the source and a SHA-256 of the examples, as a manifest records them."""
        facts = {
            "train_items": len(self.train),
            "test_items": len(self.test),
            "sha256": sha256(self.train, self.test, *([self.queries] if self.queries else [])),
            "source": self.source,
            "note": self.note,
        }
        if self.validation:
            facts["validation_items"] = len(self.validation)
        if self.queries:
            facts["queries"] = len(self.queries)
        if self.labels:
            facts["labels"] = list(self.labels)
        if self.units:
            facts["units"] = self.units
        skipped = self.train.skipped + self.test.skipped
        if skipped:
            facts["skipped"] = {"count": len(skipped), "first": skipped[:10]}
        return facts


def shortened_list(names: Sequence[str], most: int = 20) -> str:
    """Return names on one line, the first `most` of them and the number of others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name[:40] for name in names[:most]) + more


class Dataset(ABC):
    """A data set; no file is read before `load`.

    `path` is the recipe's path of the user's own files. It is empty for a data set with a fixed place below the data
    root, and None for one that reads no files.
    """

    path: str | None = ""
    validation: int = 0
    """The number of training examples to hold out as the validation split."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the examples under `root`, downloading them there if they are missing. Raises: DataError."""

    def splits(self, root: Path) -> Splits:
        """Return what `load` reads, with `validation` examples of the train split as the validation split.

        Raises: DataError, also if there are too few to hold out.
        """
        found = self.load(root)
        if not self.validation:
            return found
        if self.validation >= len(found.train):
            raise DataError(
                f"data.validation is {self.validation:,}, and {found.source} has {len(found.train):,} training "
                "examples. Hold out fewer."
            )
        train, validation = found.train.divided(self.validation)
        return replace(found, train=train, validation=validation)

    def count(self, root: Path) -> int | None:
        """Return the number of examples under `root`, or in the complete set; None if that is not known.

        This is fast: files are counted, not read.
        """
        return None

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet; an empty string if some are, or if it is not known.

        No file is read.
        """
        return nothing_at(self.path, root) if self.path and existing(self.path, root) is None else ""

    def check(self, root: Path) -> None:
        """Raise DataError if `validation` is too large for the number of examples, as far as `count` knows it."""
        count = self.count(root) if self.validation else None
        if count and self.validation >= count:
            raise DataError(
                f"data.validation is {self.validation:,}, and there are {count:,} training and test examples in all. "
                "Hold out fewer."
            )

    def plan(self, root: Path) -> str:
        """Return in words how the examples are read, and the memory that they take."""
        examples = self.count(root)
        if examples is None:
            return f"none found yet; in memory up to {HELD_AT_MOST >> 30} GiB, by {WORKERS} worker processes beyond"
        held = examples * self.bytes_per_item
        size = f"{examples:,} examples of {self.bytes_per_item:,} bytes = {megabytes(held)}"
        if held <= HELD_AT_MOST:
            return f"in memory as bytes, {size}"
        return f"read from disk by {WORKERS} worker processes, {size}"

    @property
    def bytes_per_item(self) -> int:
        """The bytes of an example in memory."""
        return prod(self.spec.shape)


def megabytes(count: int) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def data_root(given: Path | None = None, *, of: Dataset | None = None) -> Path:
    """Return the data root, the folder of the data sets: the one given, $VQTK_DATA, or ~/.cache/vqtk/data.

    Raises: DataError if the folder given does not exist; the same for $VQTK_DATA or a missing home directory, unless
    the data set `of` is given and does not need the data root.
    """
    needed = of is None or _is_below_root(of)
    asked = given or (Path(os.environ["VQTK_DATA"]) if os.environ.get("VQTK_DATA") else None)
    if asked is None:
        return user_cache() / "data" if needed else Path()
    root = expanded(asked)
    if not root.is_dir() and (given or needed):
        name = "--data-dir" if given else "VQTK_DATA"
        raise DataError(f"{name} is {asked}, which is not a folder. Expected the folder of the data sets.")
    return root


def _is_below_root(dataset: Dataset) -> bool:
    return dataset.path is not None and not expanded(Path(dataset.path)).is_absolute()


def fixed_subset(split: Split, items: int, seed: int) -> Tensor:
    """Return the indices of a seeded random subset of a split; of all of it, in random order, if it is no larger."""
    return torch.randperm(len(split), generator=generator(seed, "evaluate"))[:items]
