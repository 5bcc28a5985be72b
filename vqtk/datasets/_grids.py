"""Voxel grids from files: split and class from folders, and what happens to damaged files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vqtk.datasets._base import Dataset, Splits, megabytes
from vqtk.datasets._paths import shown
from vqtk.datasets._split import DAMAGED_AT_MOST, HeldBits
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec


class Grids(Dataset):
    """Voxel grids of `size` cubed, held in memory as bits."""

    def __init__(self, *, size: int):
        self.size = size

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("voxels", (1, self.size, self.size, self.size))

    @property
    def bytes_per_item(self) -> int:
        """The bytes of a grid in memory, at eight voxels each."""
        return -(-(self.size**3) // 8)

    def plan(self, root: Path) -> str:
        """Return in words how the grids are read, and the memory that they take."""
        grids, each = self.count(root), f"{self.bytes_per_item:,} bytes"
        if grids is None:
            return f"none found yet; in memory as bits, {each} a grid"
        return f"in memory as bits, {grids:,} grids of {each} = {megabytes(grids * self.bytes_per_item)}"


@dataclass(frozen=True)
class GridFile:
    """A file of grids: whether they belong to the train split, and the index of their class if there are classes."""

    path: Path
    train: bool
    label: int | None = None


def files_by_class(folder: Path, suffix: str) -> dict[str, list[GridFile]]:
    """Return the files <class>/{train,test}/*<suffix> of each class that has any, sorted by name."""
    classes: dict[str, list[GridFile]] = {}
    for path in sorted(folder.glob(f"*/*/*{suffix}")):
        if path.parent.name in ("train", "test") and path.name[0] != "." and path.is_file():
            classes.setdefault(path.parent.parent.name, []).append(GridFile(path, path.parent.name == "train"))
    return classes


def labelled(classes: dict[str, list[GridFile]]) -> list[GridFile]:
    """Return the files of all classes, labelled by the index of the class."""
    return [replace(file, label=label) for label, files in enumerate(classes.values()) for file in files]


def assembled(
    files: Sequence[GridFile], read: Iterable[np.ndarray | DataError], *, spec: DataSpec, source: Path
) -> Splits:
    """Return the splits of files; `read` yields the packed grids (g, bytes) or the error of each file, in order.

    Raises: DataError if more than a tenth of the files are damaged, or a split has no intact file.
    """
    whole: list[tuple[GridFile, np.ndarray]] = []
    damaged: list[tuple[GridFile, DataError]] = []
    for file, found in zip(files, read, strict=True):
        if isinstance(found, DataError):
            damaged.append((file, found))
        else:
            whole.append((file, found))
    if len(damaged) > DAMAGED_AT_MOST * len(files):
        share = f"{len(damaged):,} of {len(files):,}"
        raise DataError(f"{source}: {share} files are damaged or do not fit. The first: {damaged[0][1]}")
    train, test = (
        _split(
            [pair for pair in whole if pair[0].train == train],
            shape=spec.shape,
            skipped=[shown(file.path) for file, _ in damaged if file.train == train],
        )
        for train in (True, False)
    )
    for part, split in (("train", train), ("test", test)):
        if not len(split):
            raise DataError(f"{source}: the {part} split has no intact file. {_counted(files)}")
    return Splits(train, test, source=shown(source), note=_note(files, damaged))


def _split(whole: list[tuple[GridFile, np.ndarray]], *, shape: tuple[int, ...], skipped: list[str]) -> HeldBits:
    packed = np.concatenate([grids for _, grids in whole]) if whole else np.empty((0, 0), dtype=np.uint8)
    labels = [file.label for file, grids in whole for _ in grids if file.label is not None]
    return HeldBits(packed, shape, torch.tensor(labels) if labels else None, skipped=skipped)


def _counted(files: Sequence[GridFile]) -> str:
    counts = Counter(file.train for file in files)
    return (
        f"Found {counts[True]:,} files for training and {counts[False]:,} for testing; expected some of each. "
        "Add files, or hold out another fraction."
    )


def _note(files: Sequence[GridFile], damaged: list[tuple[GridFile, DataError]]) -> str | None:
    if not damaged:
        return None
    return f"Skipped {len(damaged):,} of {len(files):,} files as damaged. The first: {damaged[0][1]}"
