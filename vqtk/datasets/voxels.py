"""The user's own voxel grids: a folder of .npz files."""

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from vqtk.datasets._base import Splits
from vqtk.datasets._grids import GridFile, Grids, assembled
from vqtk.datasets._layout import Layout, layout_of
from vqtk.datasets._paths import existing, files_below, required
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
        layout = layout_of(files_below(found, wanted=_is_grid), share=self.test)
        return len(layout.train) + len(layout.test)

    def load(self, root: Path) -> Splits:
        """Read the grids."""
        found = required(self.path, root, expected=_EXPECTED)
        if not found.is_dir():
            raise DataError(f"data.path is {self.path!r}; {found} is a file. Expected {_EXPECTED}.")
        names = files_below(found, wanted=_is_grid)
        if not names:
            raise DataError(f"{found} holds no .npz file. Expected {_EXPECTED}.")
        layout = layout_of(names, share=self.test).check(found, self.test)
        files = [*_grid_files(found, layout, train=True), *_grid_files(found, layout, train=False)]
        read = (_read(file.path, self.size) for file in files)
        splits = assembled(files, read, spec=self.spec, source=found)
        splits.note = " ".join(filter(None, [*layout.notes, splits.note])) or None
        splits.labels = layout.shown_names()
        return splits


def _is_grid(name: str) -> bool:
    return name.endswith(".npz")


def _grid_files(folder: Path, layout: Layout, *, train: bool) -> list[GridFile]:
    part = layout.train if train else layout.test
    labels = layout.labels(part)
    return [
        GridFile(folder / file, train, None if labels is None else labels[index]) for index, file in enumerate(part)
    ]


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
