"""How a folder of files is divided into training and test examples, and what its sub-folders say of labels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqtk.datasets._paths import shown
from vqtk.errors import DataError

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""What the name of a folder says, in lower case: the usual names of splits."""


@dataclass(frozen=True)
class Layout:
    """The files of either split, relative to their folder; what was decided, in lines; the name of each label."""

    train: list[Path]
    test: list[Path]
    notes: list[str] = field(default_factory=list)
    names: tuple[str, ...] | None = None
    depth: int = 0

    def labels(self, files: Iterable[Path]) -> list[int] | None:
        """Return the label of each file, an index into `names`; None if there are none."""
        if self.names is None:
            return None
        places = {name: label for label, name in enumerate(self.names)}
        return [places[file.parts[self.depth]] for file in files]

    def shown_names(self) -> tuple[str, ...] | None:
        """Return the names of the labels as they can be printed."""
        return None if self.names is None else tuple(shown(Path(name)) for name in self.names)

    def check(self, folder: Path, share: float) -> Layout:
        """Return itself. Raises: DataError if a split has no file."""
        if not self.train or not self.test:
            found = f"{len(self.train):,} to train on and {len(self.test):,} to test on, with data.test {share}"
            raise DataError(
                f"{shown(folder)}: of its files there are {found}. Add files, or put them into sub-folders train and "
                "test."
            )
        return self


def layout_of(files: Sequence[Path], *, share: float) -> Layout:
    """Return how files are divided: by folders that are splits, else by their names, a share of them held out.

    Splits are the folders just below, or those below each class. Where there are a train folder and a test folder,
    these are taken, and a validation folder is not used; where there is no test folder, the validation folder is for
    test. A train folder alone holds all files. Labels are the folders of the next level (the classes) where all files
    lie in such, and there are several. Raises: DataError if there are only folders to test on.
    """
    for depth, labels_at in ((0, 1), (1, 0)):
        found = splits_by_folder(files, depth)
        if found:
            return _labelled(*found, depth=labels_at)
    parts = {_part(file, 0) for file in files}
    if parts == {"validation", "test"}:
        raise DataError(
            f"the folders {_named(files, 0)} are splits, and there is none to train on. Add a folder `train`, or "
            "rename them if they are labels."
        )
    alone = parts == {"train"}
    notes = (
        ["The folder `train` has no `test` or `val` beside it, and is taken for a label."] if "train" in parts else []
    )
    return _labelled(*held_out(files, share), [] if alone else notes, depth=1 if alone else 0)


def held_out(files: Sequence[Path], share: float) -> tuple[list[Path], list[Path]]:
    """Return the files to train on and about a share of them to test on, by a hash of each file's name.

    So adding files moves none, except that of two or more at least one goes to either split.
    """
    places = {file: _place(file) for file in files}
    test = {file for file in files if places[file] < share}
    if len(files) > 1 and len(test) in (0, len(files)):
        ordered = sorted(files, key=lambda file: places[file])
        test = {ordered[0]} if not test else set(ordered[:-1])
    return [file for file in files if file not in test], [file for file in files if file in test]


def in_order(names: Iterable[str]) -> list[str]:
    """Return names sorted; whole numbers in numeric order where all are."""
    found = set(names)
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def splits_by_folder(files: Sequence[Path], depth: int = 0) -> tuple[list[Path], list[Path], list[str]] | None:
    """Return the files in folders that are splits, at a depth, and what was decided; None if there are none."""
    found: dict[str, list[Path]] = {"train": [], "validation": [], "test": [], "": []}
    for file in files:
        found[_part(file, depth)].append(file)
    tested = "test" if found["test"] else "validation"
    if not found["train"] or not found[tested]:
        return None
    notes = [
        f"Folders that are splits: train on {_named(found['train'], depth)}, test on {_named(found[tested], depth)}."
    ]
    if tested == "test" and found["validation"]:
        notes.append(f"{_files(found['validation'])} in {_named(found['validation'], depth)} not used.")
    if found[""]:
        notes.append(f"{_files(found[''])} in none of these, such as {shown(found[''][0])}, left out.")
    return found["train"], found[tested], notes


def _part(file: Path, depth: int) -> str:
    """Return the split that a file's folder at a depth names, or an empty string."""
    return _PARTS.get(file.parts[depth].lower(), "") if len(file.parts) > depth + 1 else ""


def _named(files: Sequence[Path], depth: int) -> str:
    return " and ".join(sorted({f"`{shown(Path(file.parts[depth]))}`" for file in files}))


def _files(files: Sequence[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files):,} files"


def _labelled(train: list[Path], test: list[Path], notes: list[str], *, depth: int) -> Layout:
    """Return the layout, with labels if all files lie in folders of that depth, and in several."""
    files = [*train, *test]
    names = in_order(file.parts[depth] for file in files if len(file.parts) > depth + 1)
    every = all(len(file.parts) > depth + 1 for file in files)
    return Layout(train, test, notes, tuple(names) if every and len(names) > 1 else None, depth)


def _place(file: Path) -> float:
    """Return a number from 0 to 1 that a file's relative path decides."""
    digest = hashlib.sha256(file.as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
