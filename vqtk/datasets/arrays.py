"""The user's own vectors and signals: a .npy or .npz file, or a folder of them."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from annotated_types import Gt, Len, Lt, doc

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._examples import Examples, count_examples, read_examples
from vqtk.datasets._given import normalise
from vqtk.datasets._layout import drawn_rows, layout_of, splits_by_folder
from vqtk.datasets._listing import listed
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._split import DAMAGED_AT_MOST, HELD_AT_MOST, Held
from vqtk.errors import DataError
from vqtk.nn.types import Count, DataSpec
from vqtk.registry import datasets

_EXPECTED = "a .npy or .npz file, or a folder of them"
Shape = Annotated[list[Count], Len(1, 2), doc("a list, [values] of a vector or [channels, time] of a signal")]

Divided = tuple[Held, Held, list[str], tuple[str, ...] | None]
"""Train and test examples, lines for the user about what was decided, and the names of the labels."""


@datasets.register("arrays", example={"path": "arrays", "shape": [16]})
class Arrays(Dataset):
    """Your own vectors, waveforms and time series: a .npy or .npz file, or a folder of them.

    `path` is absolute, or below the data root or the working directory. `shape` is that of an example: [values] of a
    vector, or [channels, time] of a signal. An array holds one example, several (n, *shape), or a recording (channels,
    longer time), which is cut into windows that do not overlap. A .npz file holds one array and optionally `labels`
    (n,); or arrays `train` and `test`, optionally with `train_labels` and `test_labels`.

    A folder is divided and labelled like one of images. Of a single array the fraction `test` is held out: examples
    drawn with a fixed seed, or the end of a recording. `normalise` subtracts the mean and divides by the std of the
    train split, for each `channel` (each value of a vector) or over `all` values; `none` keeps the values.

    Shapes: examples (values,) or (channels, time), float32, in training units.
    Raises: DataError if there are none, too many to hold in memory, or more than a tenth of the files do not fit.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        shape: Shape,
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
        normalise: Literal["channel", "all", "none"] = "channel",
    ):
        self.path, self.shape, self.test, self.normalise = path, tuple(shape), test, normalise

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("points" if len(self.shape) == 1 else "signals", self.shape)

    @property
    def bytes_per_item(self) -> int:
        """The bytes of an example in memory."""
        return 4 * prod(self.shape)

    def count(self, root: Path) -> int | None:
        """Return the number of examples that the headers of the files claim; None if there are none."""
        found = existing(self.path, root)
        return None if found is None else self._claimed(_files(found)) or None

    def load(self, root: Path) -> Splits:
        """Read the arrays."""
        found = required(self.path, root, expected=_EXPECTED)
        files = _files(found)
        if not files:
            raise DataError(f"{found} holds no .npy or .npz file. Expected {_EXPECTED}.")
        held = self._claimed(files) * self.bytes_per_item
        if held > HELD_AT_MOST:
            raise DataError(
                f"{found} holds {held:,} bytes of examples; at most {HELD_AT_MOST:,} fit in memory. Use fewer files."
            )
        train, test, notes, names = self._of_file(files[0]) if len(files) == 1 else self._of_folder(found)
        units = None if self.normalise == "none" else normalise(train, test, every=self.normalise == "all")
        return Splits(train, test, source=shown(found), note=" ".join(notes) or None, labels=names, units=units)

    def _claimed(self, files: Sequence[Path]) -> int:
        claimed = 0
        for file in files:
            try:
                claimed += count_examples(file, self.shape)
            except (DataError, ValueError, OSError, BadZipFile):
                continue  # The error is reported when the file is read.
        return claimed

    def _of_file(self, path: Path) -> Divided:
        """Divide the examples of one file by its own splits, or hold a fraction of them out. Raises: DataError."""
        parts = read_examples(path, self.shape)
        notes = _left_over(list(parts.values()))
        if len(parts) == 1:
            return *_divided(*parts.values(), share=self.test), notes, None
        own = splits_by_folder([Path(key) / path.name for key in parts])
        if own is None:
            keys = ", ".join(list(parts)[:8]) or "none"
            raise DataError(f"{path}: its arrays are {keys}. Expected a single array, or `train` and `test`.")
        train, test = (_held([parts[place.parts[0]] for place in places], [], None) for places in own[:2])
        return train, test, [*own[2], *notes], None

    def _of_folder(self, folder: Path) -> Divided:
        """Divide the files of a folder, each with one array. Raises: DataError."""
        layout = layout_of(listed(folder, wanted=_is_array), share=self.test).check(folder, self.test)
        errors: dict[Path, DataError] = {}
        splits, arrays = list[Held](), list[Examples]()
        for part in (layout.train, layout.test):
            labels, found = layout.labels(part), dict[int, Examples]()
            for index, file in enumerate(part):
                try:
                    found[index] = _single(folder / file, self.shape)
                except DataError as error:
                    errors[file] = error
            skipped = [shown(folder / file) for file in part if file in errors]
            kept = None if labels is None else [labels[index] for index in found]
            splits.append(_held(list(found.values()), skipped, kept))
            arrays += found.values()
        _check(errors, len(layout.train) + len(layout.test), folder, all(map(len, splits)))
        notes = [*layout.notes, *_left_over(arrays)]
        if errors:
            notes.append(f"Skipped {len(errors):,} files. The first: {next(iter(errors.values()))}")
        return splits[0], splits[1], notes, layout.shown_names()


def _files(found: Path) -> list[Path]:
    return [found / file for file in listed(found, wanted=_is_array)] if found.is_dir() else [found]


def _is_array(name: str) -> bool:
    return name.endswith((".npy", ".npz"))


def _single(path: Path, shape: tuple[int, ...]) -> Examples:
    """Return the examples of a file with one array and no labels. Raises: DataError."""
    parts = read_examples(path, shape)
    if len(parts) != 1 or any(part.labels is not None for part in parts.values()):
        raise DataError(f"{path}: expected a single array without labels; in a folder, sub-folders are the labels.")
    return next(iter(parts.values()))


def _divided(found: Examples, *, share: float) -> tuple[Held, Held]:
    """Return the train and test examples of one array; the test ones are the end of a recording. Raises: DataError."""
    count = found.held.count
    if count < 2:
        raise DataError("data.path holds a single example. Expected examples to train on and to test on.")
    if found.held.windows:
        test = np.arange(count) >= count - min(max(1, round(share * count)), count - 1)
    else:
        test = drawn_rows(count, share)
    chosen = [(found.values[which], None if found.labels is None else found.labels[which]) for which in (~test, test)]
    train, held_out = (
        Held(torch.from_numpy(values), None if labels is None else torch.from_numpy(labels))
        for values, labels in chosen
    )
    return train, held_out


def _held(found: Sequence[Examples], skipped: Sequence[str], of_files: Sequence[int] | None) -> Held:
    """Return the examples of several arrays, labelled by their files, or by their own labels if all have some."""
    values = torch.from_numpy(np.concatenate([one.values for one in found])) if found else torch.empty(0)
    each = [one.labels for one in found]
    if of_files is not None:
        each = [np.full(len(one.values), label) for one, label in zip(found, of_files, strict=True)]
    known = [labels for labels in each if labels is not None]
    labels = torch.from_numpy(np.concatenate(known)) if known and len(known) == len(each) else None
    return Held(values, labels, skipped=skipped)


def _check(errors: dict[Path, DataError], files: int, folder: Path, some_left: bool) -> None:
    """Raise DataError if too many files were skipped, or all of a split."""
    if errors and (len(errors) > DAMAGED_AT_MOST * files or not some_left):
        share = f"{len(errors):,} of {files:,} files do not fit"
        raise DataError(f"{folder}: {share}. The first: {next(iter(errors.values()))}")


def _left_over(arrays: Sequence[Examples]) -> list[str]:
    """Return a line about the ends of recordings that do not fill a window."""
    steps = sum(array.held.left_over for array in arrays)
    return [f"Left out: {steps:,} steps at the ends of recordings, which do not fill a window."] if steps else []
