"""The user's own voxel grids: a folder of .npz files."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._grids import GridFile, Grids, assembled
from vqtk.datasets._images import Images, read_when_needed
from vqtk.datasets._index import indexed
from vqtk.datasets._layout import Layout, layout_of
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._split import HELD_AT_MOST
from vqtk.datasets._stored import read_arrays
from vqtk.errors import DataError
from vqtk.nn.types import Side
from vqtk.registry import datasets

_EXPECTED = "a folder of .npz files with one grid each, under the key `voxels`"


@datasets.register("voxels")
class Voxels(Grids):
    """Your own voxel grids of `size`³: a folder of .npz files, each with one grid under the key `voxels`.

    `path` is absolute, or below the data root or the working directory. Folders that are splits, such as `train` and
    `test` or `val`, are used, at the top level or within each class. Otherwise the fraction `test` of the files is held
    out, chosen by their names, so that adding files moves none. If all files are in folders of classes, and there are
    several, these are their labels.

    Shapes: examples (1, size, size, size), 0 or 1.
    Raises: DataError if there are none, or more than a tenth of the files are damaged or have another size.
    """

    path: str

    def __init__(self, *, path: str, size: Side = 32, test: Annotated[float, Gt(0), Lt(1)] = 0.1):
        super().__init__(size=size)
        self.path = path
        self.test = test

    def count(self, root: Path) -> int | None:
        """Return the number of grids; None if the folder does not exist."""
        found = existing(self.path, root)
        if found is None or not found.is_dir():
            return None
        layout = layout_of(indexed(found, "grids"), share=self.test)
        return len(layout.train) + len(layout.test)

    def load(self, root: Path) -> Splits:
        """Read the grids."""
        found = required(self.path, root, expected=_EXPECTED)
        if not found.is_dir():
            raise DataError(f"data.path is {self.path!r}; {found} is a file. Expected {_EXPECTED}.")
        names = indexed(found, "grids")
        if not names:
            raise DataError(f"{found} holds no .npz file. Expected {_EXPECTED}.")
        layout = layout_of(names, share=self.test).check(found, self.test)
        if self._is_large(len(names)):
            return self._from_disk(found, layout)
        files = [*_grid_files(found, layout, train=True), *_grid_files(found, layout, train=False)]
        read = (_read(file.path, self.size) for file in files)
        splits = assembled(files, read, spec=self.spec, source=found)
        splits.note = " ".join(filter(None, [*layout.notes, splits.note])) or None
        splits.labels = layout.shown_names()
        return splits

    def plan(self, root: Path) -> str:
        """Return in words how the grids are read, and the memory that they take."""
        return Dataset.plan(self, root) if self._is_large(self.count(root) or 0) else super().plan(root)

    def _is_large(self, grids: int) -> bool:
        return grids * self.bytes_per_item > HELD_AT_MOST

    def _from_disk(self, folder: Path, layout: Layout) -> Splits:
        parts = [Images(part.below(folder), layout.labels(part)) for part in (layout.train, layout.test)]
        train, test = read_when_needed(*parts, read=partial(_read_unpacked, size=self.size), what="voxel grids")
        note = " ".join(layout.notes) or None
        return Splits(train, test, source=shown(folder), note=note, labels=layout.shown_names())


def _grid_files(folder: Path, layout: Layout, *, train: bool) -> list[GridFile]:
    part = layout.train if train else layout.test
    labels = layout.labels(part)
    return [
        GridFile(folder / file, train, None if labels is None else int(labels[index]))
        for index, file in enumerate(part)
    ]


def _read_unpacked(path: Path, size: int) -> Tensor:
    """Return the grid of a file (1, size, size, size), uint8. Raises: DataError."""
    packed = _read(path, size)
    if isinstance(packed, DataError):
        raise packed
    return torch.from_numpy(np.unpackbits(packed[0], count=size**3)).view(1, size, size, size)


def _read(path: Path, size: int) -> np.ndarray | DataError:
    """Return the grid of a file as packed bits (1, bytes), or the error of the file."""
    try:
        grid = read_arrays(path, "voxels")["voxels"]
    except Exception as error:  # What NumPy raises depends on how the file is damaged.
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        return DataError(
            f"{path} cannot be read as a voxel grid: {cause}. Expected a complete .npz file with the key `voxels`."
        )
    shape = (size, size, size)
    if grid.shape not in (shape, (1, *shape)):
        return DataError(
            f"{path}: `voxels` has shape {grid.shape}. Expected {shape} or {(1, *shape)}, since data.size is {size}."
        )
    if grid.dtype.kind not in "buif" or not np.isin(grid, (0, 1)).all():
        return DataError(f"{path}: `voxels` is {grid.dtype}, not all 0 or 1. Expected booleans, or numbers 0 and 1.")
    return np.packbits(grid.astype(bool))[None]
