"""Files as examples: images decoded in parallel and held in memory, or read when needed if there are too many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._index import ListedFiles
from vqtk.datasets._listing import Listing
from vqtk.datasets._paths import shown
from vqtk.datasets._split import DAMAGED_AT_MOST, HELD_AT_MOST, Files, Held, OnDisk, Split
from vqtk.errors import DataError

_TRIED = 100


@dataclass
class Images:
    """The image files of a split, their labels if there are any, and the names of those known to be missing."""

    paths: Sequence[Path]
    labels: np.ndarray | None = None
    lost: list[str] = field(default_factory=list)


def load_images(
    train: Images, test: Images, *, read: Callable[[Path], Tensor], shape: Sequence[int]
) -> tuple[Split, Split, str | None]:
    """Return two splits of images of a shape, and a line about the images that were skipped, None if none were.

    The images are held in memory if they fit, and otherwise read by workers. Damaged ones are skipped and named in
    `skipped`: at once if images are held; otherwise when they are read, after a check of some images in advance.

    Raises: DataError if more than a tenth of the images, or all of a split, are damaged.
    """
    if (len(train.paths) + len(test.paths)) * prod(shape) > HELD_AT_MOST:
        files = read_when_needed(train, test, read=read, what="images")
        return *files, _skipped_note(files, [])
    errors: list[DataError] = []
    splits = [_held(images, read, shape, errors) for images in (train, test)]
    _check(errors, len(train.paths) + len(test.paths), what="images", all_of_a_split=not all(map(len, splits)))
    return splits[0], splits[1], _skipped_note(splits, errors)


def read_when_needed(train: Images, test: Images, *, read: Callable[[Path], Tensor], what: str) -> tuple[Split, Split]:
    """Return two splits of files that are read when they are needed, after a check of a sample, evenly spaced.

    Raises: DataError if more than a tenth of the sample are damaged; `what` names the files.
    """
    splits = _from_files(train, read), _from_files(test, read)
    check_sample(splits, what=what)
    return splits


def check_sample(splits: Sequence[OnDisk], *, what: str) -> None:
    """Read a sample of the examples. Raises: DataError if more than a tenth of it are damaged."""
    ends = np.cumsum([len(split) for split in splits])
    tried = range(0, int(ends[-1]), -(-int(ends[-1]) // _TRIED))

    def attempt(index: int) -> None:
        at = int(np.searchsorted(ends, index, side="right"))
        splits[at].example(index - (int(ends[at - 1]) if at else 0))

    _check(list(_in_parallel(attempt, tried).values()), len(tried), what=what, all_of_a_split=False)


def _skipped_note(splits: Sequence[Split], errors: list[DataError]) -> str | None:
    """Return a line with the number of skipped images, and the name of the first and what is wrong with it."""
    skipped = [name for split in splits for name in split.skipped]
    if not skipped:
        return None
    first = str(errors[0]) if errors else f"{skipped[0]}."
    return f"1 image skipped: {first}" if len(skipped) == 1 else f"{len(skipped):,} images skipped. The first: {first}"


def _held(images: Images, read: Callable[[Path], Tensor], shape: Sequence[int], errors: list[DataError]) -> Held:
    items = torch.empty((len(images.paths), *shape), dtype=torch.uint8)

    def fill(index: int) -> None:
        items[index] = read(images.paths[index])

    found = _in_parallel(fill, range(len(items)))
    errors += found.values()
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    if found:
        whole = torch.tensor([index not in found for index in range(len(items))])
        items, labels = items[whole], None if labels is None else labels[whole]
    return Held(items, labels, skipped=[*images.lost, *(shown(images.paths[index]) for index in found)])


def _from_files(images: Images, read: Callable[[Path], Tensor]) -> Files:
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    paths = images.paths
    split = ListedFiles(paths, read, labels) if isinstance(paths, Listing) else Files(paths, read, labels)
    split.skipped = list(images.lost)
    return split


def _in_parallel(act: Callable[[int], object], indices: Sequence[int]) -> dict[int, DataError]:
    """Call a function for each index, in threads; return the errors by index, in order."""

    def attempt(index: int) -> DataError | None:
        try:
            act(index)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = pool.map(attempt, indices)
        return {index: error for index, error in zip(indices, errors, strict=True) if error}


def _check(errors: list[DataError], tried: int, *, what: str, all_of_a_split: bool) -> None:
    if len(errors) > DAMAGED_AT_MOST * tried or (errors and all_of_a_split):
        raise DataError(
            f"{len(errors):,} of {tried:,} {what} cannot be read; the first: {errors[0]} At most a tenth may be "
            "skipped, and not all of a split. Replace or delete these files."
        )
