"""Divide a folder of files into train and test splits, and derive labels from its sub-folders."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

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

    train: list[Path]
    test: list[Path]
    notes: list[str] = field(default_factory=list)
    names: tuple[str, ...] | None = None
    depth: int = 0

    def labels(self, files: Iterable[Path]) -> list[int] | None:
        """Return the label of each file, an index into `names`; None if there are no labels."""
        if self.names is None:
            return None
        places = {name: label for label, name in enumerate(self.names)}
        return [places[file.parts[self.depth]] for file in files]

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
    for depth, labels_at in ((0, 1), (1, 0)):
        found = splits_by_folder(files, depth)
        if found:
            return _labelled(*found, depth=labels_at)
    parts = {_part(file, 0) for file in files}
    if parts == {"validation", "test"}:
        raise DataError(
            f"the folders {_named(files, 0)} are splits, and none is to train on. Add a folder `train`, or rename them "
            "if they are labels."
        )
    alone = parts == {"train"}
    notes = (
        ["The folder `train` has no `test` or `val` beside it, so it is treated as a label."]
        if "train" in parts
        else []
    )
    return _labelled(*held_out(files, share), [] if alone else notes, depth=1 if alone else 0)


def held_out(files: Sequence[Path], share: float) -> tuple[list[Path], list[Path]]:
    """Return the files to train on, and about a fraction `share` of them to test on, by a hash of each file's name.

    A hash, so that adding files moves none from one split to the other; except that of two or more files at least one
    goes to each split.
    """
    places = {file: _place(file) for file in files}
    test = {file for file in files if places[file] < share}
    if len(files) > 1 and len(test) in (0, len(files)):
        ordered = sorted(files, key=lambda file: places[file])
        test = {ordered[0]} if not test else set(ordered[:-1])
    return [file for file in files if file not in test], [file for file in files if file in test]


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


def splits_by_folder(files: Sequence[Path], depth: int = 0) -> tuple[list[Path], list[Path], list[str]] | None:
    """Return the train and test files by folders that are splits, at a depth, and notes; None without such folders."""
    found: dict[str, list[Path]] = {"train": [], "validation": [], "test": [], "": []}
    for file in files:
        found[_part(file, depth)].append(file)
    tested = "test" if found["test"] else "validation"
    if not found["train"] or not found[tested]:
        return None
    notes = [f"Splits by folder: train on {_named(found['train'], depth)}, test on {_named(found[tested], depth)}."]
    if tested == "test" and found["validation"]:
        notes.append(f"Not used: {_files(found['validation'])} in {_named(found['validation'], depth)}.")
    if found[""]:
        notes.append(f"Left out: {_files(found[''])} in neither, such as {shown(found[''][0])}.")
    return found["train"], found[tested], notes


def _part(file: Path, depth: int) -> str:
    """Return the split that a file's folder at a depth names; an empty string if it names none."""
    return _PARTS.get(file.parts[depth].lower(), "") if len(file.parts) > depth + 1 else ""


def _named(files: Sequence[Path], depth: int) -> str:
    return " and ".join(sorted({f"`{shown(Path(file.parts[depth]))}`" for file in files}))


def _files(files: Sequence[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def _labelled(train: list[Path], test: list[Path], notes: list[str], *, depth: int) -> Layout:
    """Return the layout, with labels if all files are in folders at that depth, and in several."""
    files = [*train, *test]
    names = in_order(file.parts[depth] for file in files if len(file.parts) > depth + 1)
    every = all(len(file.parts) > depth + 1 for file in files)
    return Layout(train, test, notes, tuple(names) if every and len(names) > 1 else None, depth)


def _place(file: Path) -> float:
    """Return a number in [0, 1) that depends only on a file's relative path."""
    digest = hashlib.sha256(file.as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
