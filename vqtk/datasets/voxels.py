"""A user's own voxel grids: a folder of .npz files."""

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt
from numpy.lib.npyio import NpzFile

from vqtk.datasets._base import Splits
from vqtk.datasets._grids import GridFile, Grids, assembled, labelled, laid_out
from vqtk.datasets._paths import existing, files_below, required
from vqtk.errors import DataError
from vqtk.nn.types import Count
from vqtk.registry import datasets

_EXPECTED = "a folder of .npz files with one grid each, under the key `voxels`"


@datasets.register("voxels")
class Voxels(Grids):
    """Your own voxel grids of `size` cubed: a folder of .npz files, each with one grid under the key `voxels`.

    `path` is absolute, or below the data root or the working directory. Files at <class>/{train,test}/ are split and
    labelled by that. Otherwise the folder is read with all that is below it; the share `test` is held out, by the
    files' names, so that it stays when files are added; the folders just below are the classes, if there are several.

    Shapes: items (1, size, size, size), 0 or 1.
    Raises: DataError if there are none, or more than a tenth of the files are damaged or of another size.
    """

    path: str

    def __init__(self, *, path: str, size: Count = 32, test: Annotated[float, Gt(0), Lt(1)] = 0.1):
        super().__init__(size=size)
        self.path = path
        self.test = test

    def count(self, root: Path) -> int | None:
        """Return how many grids there are."""
        found = existing(self.path, root)
        return None if found is None else len(self._listed(found))

    def load(self, root: Path) -> Splits:
        """Read the grids."""
        found = required(self.path, root, expected=_EXPECTED)
        files = self._listed(found)
        if not files:
            raise DataError(f"{found} holds no .npz file. Expected {_EXPECTED}.")
        read = (_read(file.path, self.size) for file in files)
        return assembled(files, read, spec=self.spec, source=found)

    def _listed(self, folder: Path) -> list[GridFile]:
        classes = laid_out(folder, ".npz")
        if any(file.train for files in classes.values() for file in files):
            return labelled(classes)
        found: dict[str, list[GridFile]] = {}
        for path in files_below(folder):
            if path.suffix == ".npz":
                name = path.relative_to(folder)
                top = name.parts[0] if len(name.parts) > 1 else ""
                found.setdefault(top, []).append(GridFile(path, not self._held_out(name)))
        several = len(found) > 1 and "" not in found
        return labelled(found) if several else [file for files in found.values() for file in files]

    def _held_out(self, name: Path) -> bool:
        digest = hashlib.sha256(name.as_posix().encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.test * 2**64


def _read(path: Path, size: int) -> np.ndarray | DataError:
    """Return the grid of a file as packed bits (1, bytes), or what is wrong with it."""
    try:
        grid = _grid(path)
    except Exception as error:  # What NumPy raises depends on how the file is damaged.
        cause = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{path} cannot be read as a voxel grid: {cause}. Expected a whole .npz with key `voxels`.")
    shape = (size, size, size)
    if grid.shape not in (shape, (1, *shape)):
        return DataError(
            f"{path}: `voxels` has shape {grid.shape}. Expected {shape} or {(1, *shape)}, as data.size is {size}."
        )
    if grid.dtype.kind not in "bui" or grid.min() < 0 or grid.max() > 1:
        return DataError(f"{path}: `voxels` is {grid.dtype}, not all 0 or 1. Expected booleans, or integers 0 and 1.")
    return np.packbits(grid.astype(bool))[None]


def _grid(path: Path) -> np.ndarray:
    """Return what a file holds as `voxels`. Raises: ValueError if there is no such key."""
    stored = np.load(path, allow_pickle=False)
    if not isinstance(stored, NpzFile):
        raise ValueError("it is a single array")
    with stored:
        if "voxels" not in stored:
            raise ValueError(f"its keys are {', '.join(stored)}")
        return stored["voxels"]
