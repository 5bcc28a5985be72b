"""ModelNet: meshes of furniture and other objects, as voxels."""

from pathlib import Path

from vqtk.datasets._base import Splits
from vqtk.datasets._grids import GridFile, Grids, assembled, files_by_class, labelled
from vqtk.datasets._meshes import mesh_grids
from vqtk.errors import DataError, nearest
from vqtk.nn.types import CountTo1000, Side
from vqtk.registry import datasets

_PLACES = ("modelnet/off", "modelnet", "ModelNet40", "ModelNet10", "")
_COMPLETE = {4_899: "ModelNet10", 12_311: "ModelNet40"}


@datasets.register("modelnet")
class ModelNet(Grids):
    """Shapes of furniture and other objects as voxel grids of `size`³, made from meshes (pip install vqtk[voxels]).

    Each mesh gives `variations` grids: one without rotation, the others rotated at random, in both splits. Its longest
    side fills the grid; a voxel is set if the surface passes through it or encloses it. The grids are computed once and
    cached in ~/.cache/vqtk/voxels. `classes` are the classes to use, by default all.

    Shapes: examples (1, size, size, size), 0 or 1.
    Raises: DataError if there are no meshes, or more than a tenth of them are damaged.
    Source: Wu et al. 2015; the variations of the original experiment.
    """

    def __init__(self, *, size: Side = 64, variations: CountTo1000 = 4, classes: list[str] | None = None):
        super().__init__(size=size)
        self.variations = variations
        self.classes = classes

    def count(self, root: Path) -> int | None:
        """Return the number of grids; None if there are no meshes."""
        folder = _find(root)
        if folder is None:
            return None
        chosen = files_by_class(folder, ".off")
        names = chosen if self.classes is None else self.classes
        return self.variations * sum(len(chosen.get(name, [])) for name in names)

    def missing(self, root: Path) -> str:
        """Return a sentence if there are no meshes under `root`."""
        return "" if _find(root) else f"no meshes of ModelNet are in {root} or {root / _PLACES[0]}."

    def load(self, root: Path) -> Splits:
        """Read the grids from the cache, or compute them from the meshes."""
        folder = _find(root)
        if folder is None:
            raise DataError(
                f"ModelNet is not in {root}: there is no <class>/train/*.off in {', '.join(map(_shown, _PLACES))}. "
                "Download ModelNet10 or ModelNet40 from https://modelnet.cs.princeton.edu and unpack it there, to get "
                f"{root}/ModelNet10/chair/train/chair_0001.off; or set VQTK_DATA or --data-dir."
            )
        found = files_by_class(folder, ".off")
        chosen = self._chosen(found, folder)
        files = labelled(chosen)
        grids = mesh_grids([file.path for file in files], size=self.size, variations=self.variations)
        splits = assembled(files, grids, spec=self.spec, source=folder)
        splits.labels = tuple(chosen)
        splits.train.together = self.variations
        splits.note = " ".join(filter(None, [_incomplete(found, folder), splits.note])) or None
        return splits

    def _chosen(self, found: dict[str, list[GridFile]], folder: Path) -> dict[str, list[GridFile]]:
        """Return the files of the chosen classes, sorted by class. Raises: DataError if a class does not exist."""
        names = sorted(found if self.classes is None else set(self.classes))
        for name in names:
            if name not in found:
                raise DataError(
                    f"data.classes: {folder} has no class {name!r}. {nearest(name, list(found))}"
                    f"Its classes: {', '.join(found)}."
                )
        return {name: found[name] for name in names}


def _find(root: Path) -> Path | None:
    return next((root / place for place in _PLACES if any((root / place).glob("*/train/*.off"))), None)


def _shown(place: str) -> str:
    return f"{place}/" if place else "the folder itself"


def _incomplete(found: dict[str, list[GridFile]], folder: Path) -> str | None:
    """Return a line for the user if the folder is neither of the two published sets; None if it is one."""
    meshes = sum(map(len, found.values()))
    if meshes in _COMPLETE:
        return None
    sizes = " nor ".join(f"{name} ({size:,})" for size, name in _COMPLETE.items())
    return (
        f"{folder} holds {meshes:,} meshes of {len(found)} classes, neither {sizes}: "
        "metrics are not comparable with published ones."
    )
