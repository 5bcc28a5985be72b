"""Examples that are given from Python."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len, doc

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._paths import because, required
from vqtk.datasets._split import Held
from vqtk.datasets._stored import read_arrays
from vqtk.errors import DataError
from vqtk.files import replacing
from vqtk.nn.types import Count, DataSpec, Positive
from vqtk.registry import datasets

KEPT = "data.npz"
"""The file in a run directory that keeps its examples."""
_OPTIONAL = ("train_labels", "test_labels", "mean", "std")


@datasets.register("memory", example={"kind": "image", "shape": [1, 28, 28]})
class Memory(Dataset):
    """Examples given from Python, by `vqtk.train(recipe, data=…)`, which fills in these settings.

    `kind`, `shape`, `classes`, `mean` and `std` describe the examples. `path` is a .npz file that keeps them, with the
    arrays `train` and `test`; null: they are not kept, so commands that need data cannot be used.

    Shapes: examples of `shape`; uint8 of images and voxels, int64 of text, otherwise float32 in training units.
    Raises: DataError if they are not kept, or the file does not fit.
    """

    def __init__(
        self,
        *,
        kind: Literal["image", "text", "voxels", "points", "signals"],
        shape: Annotated[list[Count], Len(1, 4), doc("a list of 1 to 4 sizes, the shape of an example")],
        classes: Count | None = None,
        mean: float = 0.0,
        std: Positive = 1.0,
        path: str | None = None,
    ):
        self.described = DataSpec(kind, tuple(shape), classes, mean, std)
        self.path = path

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return self.described

    @property
    def bytes_per_item(self) -> int:
        """The bytes of an example in memory."""
        return prod(self.described.shape) * {"image": 1, "voxels": 1, "text": 8}.get(self.described.kind, 4)

    def load(self, root: Path) -> Splits:
        """Read the kept examples."""
        if self.path is None:
            raise DataError(
                "these examples were given from Python and not kept. Give them again: vqtk.train(…, data=…), or "
                "vqtk.Run(…).resume(data=…). `keep_data=True` keeps them with the run."
            )
        found = required(self.path, root, expected="a .npz file with the arrays train and test")
        try:
            stored = read_arrays(found, "train", "test", optional=_OPTIONAL)
            train, test = (self._held(stored, part) for part in ("train", "test"))
        except Exception as error:  # What NumPy raises depends on how the file is damaged.
            reason = str(error) if type(error) is ValueError else because(error)
            raise DataError(f"{found}: {' '.join(reason.split())}. Give the examples again from Python.") from None
        units = {name: stored[name].tolist() for name in ("mean", "std")} if "mean" in stored else None
        return Splits(train, test, source="Python", units=units)

    def _held(self, stored: dict[str, np.ndarray], part: str) -> Held:
        values, labels = stored[part], stored.get(f"{part}_labels")
        kinds = {"image": "uint8", "voxels": "uint8", "text": "int64"}
        dtype = kinds.get(self.described.kind, "float32")
        if values.shape[1:] != self.described.shape or values.dtype != dtype or not len(values):
            expected = f"{dtype} of shape (n, {', '.join(map(str, self.described.shape))})"
            raise ValueError(f"its array {part} is {values.dtype} of shape {values.shape}; expected {expected}")
        if dtype == "float32" and not np.isfinite(values).all():
            raise ValueError(f"its array {part} has values that are not finite")
        most = {"text": (self.described.classes or 1) - 1, "voxels": 1}.get(self.described.kind, 255)
        if dtype != "float32" and (values.min() < 0 or values.max() > most):
            raise ValueError(f"its array {part} has values beyond 0 to {most}")
        if labels is not None and (labels.shape != (len(values),) or labels.dtype != "int64" or labels.min() < 0):
            raise ValueError(f"its labels of {part} do not fit")
        return Held(torch.from_numpy(values), None if labels is None else torch.from_numpy(labels))


def keep_examples(splits: Splits, folder: Path) -> None:
    """Write examples held in memory to `data.npz` in a folder. Raises: OSError."""
    arrays: dict[str, Any] = {}
    for name, split in (("train", splits.train), ("test", splits.test)):
        assert isinstance(split, Held)
        arrays[name] = split.items.cpu().numpy()
        if split.labels is not None:
            arrays[f"{name}_labels"] = split.labels.numpy()
    arrays |= {name: np.asarray(values) for name, values in (splits.units or {}).items()}
    with replacing(folder / KEPT) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
