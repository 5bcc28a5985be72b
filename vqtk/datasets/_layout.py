"""Divide a folder of files into train and test splits, and derive labels from its sub-folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vqtk.datasets._listing import Listing, listing_of
from vqtk.datasets._paths import shown
from vqtk.errors import DataError

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""The usual names of folders that are splits, in lower case."""


@dataclass(frozen=True)
class Layout:
    """How a folder is divided.

    Arguments:
        train: the files of the train split, relative to the folder.
        test: those of the test split.
        notes: lines for the user about what was decided.
        names: the name of each label, if there are labels.
        depth: the level of the sub-folders that are labels.
    """

    train: Listing
    test: Listing
    notes: list[str] = field(default_factory=list)
    names: tuple[str, ...] | None = None
    depth: int = 0

    def labels(self, files: Listing) -> np.ndarray | None:
        """Return the label of each file (n,), an index into `names`; None if there are no labels."""
        if self.names is None:
            return None
        label = {name: label for label, name in enumerate(self.names)}
        of_folder = [label.get(_part_at(parts, self.depth), -1) for parts in files.folder_parts]
        return np.array(of_folder, dtype=np.int64)[files.folders]

    def shown_names(self) -> tuple[str, ...] | None:
        """Return the names of the labels in a printable form."""
        return None if self.names is None else tuple(shown(Path(name)) for name in self.names)

    def check(self, folder: Path, share: float) -> Layout:
        """Return the layout itself. Raises: DataError if a split has no file."""
        if not self.train or not self.test:
            found = f"{len(self.train):,} files to train on and {len(self.test):,} to test on"
            raise DataError(
                f"{shown(folder)} has {found}, with data.test {share}; expected some of each. Add files, or put them "
                "into sub-folders train and test."
            )
        return self


def layout_of(files: Sequence[Path], *, share: float) -> Layout:
    """Return how files are divided: by folders that are splits, or otherwise by holding out a fraction of them.

    Splits are folders at the top level, or within each class. If there are train and test folders, these are used and a
    validation folder is not; without a test folder, the validation folder is the test split. A train folder alone holds
    all files. Labels are the folders of the other level (the classes), if all files are in some and there are several.

    Raises: DataError if all folders are for testing.
    """
    listing = files if isinstance(files, Listing) else listing_of(files)
    for depth, labels_at in ((0, 1), (1, 0)):
        found = splits_by_folder(listing, depth)
        if found:
            return _labelled(*found, depth=labels_at)
    parts = {_split_named(folder, 0) for folder in _folders(listing)}
    if parts == {"validation", "test"}:
        raise DataError(
            f"the folders {_named(listing, 0)} are splits, and none is to train on. Add a folder `train`, or rename "
            "them if they are labels."
        )
    alone = parts == {"train"}
    notes = (
        ["The folder `train` has no `test` or `val` beside it, so it is treated as a label."]
        if "train" in parts
        else []
    )
    return _labelled(*held_out(listing, share), [] if alone else notes, depth=1 if alone else 0)


def held_out(files: Listing, share: float) -> tuple[Listing, Listing]:
    """Return the files to train on, and about a fraction `share` of them to test on, by a hash of each file's name.

    A hash, so that adding files moves none from one split to the other; except that of two or more files at least one
    goes to each split.
    """
    test = files.places < share
    if len(files) > 1 and test.all():
        test[np.argsort(files.places, kind="stable")[-1]] = False
    elif len(files) > 1 and not test.any():
        test[files.places.argmin()] = True
    return files.select(~test), files.select(test)


def drawn_rows(count: int, share: float) -> np.ndarray:
    """Return which of several examples are held out (n,), about a fraction `share`, drawn with a fixed seed.

    What is drawn for an example does not depend on how many follow, so that appending some moves none; except that each
    split gets at least one.
    """
    drawn = np.random.default_rng(0).random(count)
    test = drawn < share
    if test.all() or not test.any():
        return drawn == drawn.min() if not test.any() else drawn != drawn.max()
    return test


def in_order(names: Iterable[str]) -> list[str]:
    """Return names sorted, numerically if all are whole numbers."""
    found = set(names)
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def splits_by_folder(files: Sequence[Path], depth: int = 0) -> tuple[Listing, Listing, list[str]] | None:
    """Return the train and test files by folders that are splits, at a depth, and notes; None without such folders."""
    listing = files if isinstance(files, Listing) else listing_of(files)
    named = np.array([_split_named(parts, depth) for parts in listing.folder_parts])
    train, tests, validation, others = (
        listing.select((named == part)[listing.folders]) for part in ("train", "test", "validation", "")
    )
    test = tests or validation
    if not train or not test:
        return None
    notes = [f"Splits by folder: train on {_named(train, depth)}, test on {_named(test, depth)}."]
    if tests and validation:
        notes.append(f"Not used: {_files(validation)} in {_named(validation, depth)}.")
    if others:
        notes.append(f"Left out: {_files(others)} in neither, such as {shown(others[0])}.")
    return train, test, notes


def _folders(files: Listing) -> list[tuple[str, ...]]:
    """Return the folders, as their parts, that hold some of the files."""
    return [files.folder_parts[index] for index in np.unique(files.folders)]


def _part_at(parts: tuple[str, ...], depth: int) -> str:
    """Return the name of a folder's part at a depth; an empty string if the folder is less deep."""
    return parts[depth] if len(parts) > depth else ""


def _split_named(folder: tuple[str, ...], depth: int) -> str:
    """Return the split that a folder's part at a depth names; an empty string if it names none."""
    return _PARTS.get(_part_at(folder, depth).lower(), "")


def _named(files: Listing, depth: int) -> str:
    return " and ".join(sorted({f"`{shown(Path(_part_at(parts, depth)))}`" for parts in _folders(files)}))


def _files(files: Sequence[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def _labelled(train: Listing, test: Listing, notes: list[str], *, depth: int) -> Layout:
    """Return the layout, with labels if all files are in folders at that depth, and in several."""
    names = {_part_at(parts, depth) for part in (train, test) for parts in _folders(part)}
    labels = tuple(in_order(names)) if "" not in names and len(names) > 1 else None
    return Layout(train, test, notes, labels, depth)
