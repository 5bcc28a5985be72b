"""Vectors to compress and to search for: train, base and query, memory-mapped."""

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, doc

from vqtk.datasets._base import Dataset, Splits, megabytes
from vqtk.datasets._layout import drawn_rows
from vqtk.datasets._mapped import FORMATS, Mapped, map_vectors, moments_of
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._split import HELD_AT_MOST
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

_EXPECTED = "a .fvecs, .bvecs or .npy file, or a folder with files named train, base and query"
_PARTS = {
    **dict.fromkeys(("train", "learn"), "train"),
    **dict.fromkeys(("base", "test", "database"), "base"),
    **dict.fromkeys(("query", "queries"), "query"),
}
"""What the last word of a file's name says that it holds."""
Values = Annotated[int, Ge(1), Le(65_536), doc("a whole number from 1 to 65,536")]


@datasets.register("vectors", example={"path": "vectors", "values": 16})
class Vectors(Dataset):
    """Vectors in .fvecs, .bvecs or .npy files, memory-mapped: `train`, `base` and `query`.

    `path` is absolute, or below the data root or the working directory. In a folder, the last word of a file's name
    says what it holds, as in train.npy or sift_base.fvecs (learn is train, test is base). Models are tested on the base
    vectors, and with queries, recall is measured by searching the decoded base. Of a single file, or without base
    vectors, the fraction `test` is held out, drawn with a fixed seed. `values` is the length of a vector.

    Training units are (x - mean) / std, with the mean vector of the train split, and the std of all its values around
    it as one number. So distances keep their proportions, and an MSE of 1 is that of the mean alone. With `normalise:
    false` the values are used unchanged.

    Shapes: examples (values,), float32, in training units.
    Raises: DataError if files are missing or damaged, or a value is not finite.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        values: Values,
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
        normalise: bool = True,
    ):
        self.path, self.values, self.test, self.normalise = path, values, test, normalise

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("points", (self.values,))

    @property
    def bytes_per_item(self) -> int:
        """The bytes of an example in memory."""
        return 4 * self.values

    def count(self, root: Path) -> int | None:
        """Return the number of train and base vectors; None if they cannot be found."""
        found = existing(self.path, root)
        if found is None:
            return None
        try:
            parts, _ = _parts(found)
            return sum(len(map_vectors(path, self.values)) for part, path in parts.items() if part != "query")
        except DataError:
            return None  # The error is reported when the files are read.

    def plan(self, root: Path) -> str:
        """Return in words how the examples are read."""
        examples = self.count(root)
        if examples is None:
            return "none found yet; memory-mapped files"
        held = examples * self.bytes_per_item
        where = "in memory" if held <= HELD_AT_MOST else "from memory-mapped files"
        return f"{where}, {examples:,} examples of {self.bytes_per_item:,} bytes = {megabytes(held)}"

    def load(self, root: Path) -> Splits:
        """Map the files, check every value, and compute the training units."""
        found = required(self.path, root, expected=_EXPECTED)
        parts, notes = _parts(found)
        rows = {part: map_vectors(path, self.values) for part, path in parts.items()}
        kept = held_out = None
        if "base" not in rows:
            rows["base"], count = rows["train"], len(rows["train"])
            if count < 2:
                raise DataError(
                    f"{parts['train']} holds a single vector. Expected some to train on and some to test on."
                )
            drawn = drawn_rows(count, self.test)
            kept, held_out = np.flatnonzero(~drawn), np.flatnonzero(drawn)
        mean, std = moments_of(parts["train"], rows["train"], kept)
        for part, path in parts.items():
            if part != "train":
                moments_of(path, rows[part])
        if not self.normalise:
            mean, std = np.zeros_like(mean), 1.0
        train = Mapped(rows["train"], mean, std, chosen=kept)
        base = Mapped(rows["base"], mean, std, chosen=held_out)
        queries = Mapped(rows["query"], mean, std) if "query" in rows else None
        units = {"mean": mean.tolist(), "std": [std]} if self.normalise else None
        return Splits(train, base, shown(found), " ".join(notes) or None, units=units, queries=queries)


def _parts(found: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the file of each part, and lines for the user. Raises: DataError."""
    if not found.is_dir():
        if found.suffix not in FORMATS:
            raise DataError(f"{found}: its name does not end in {', '.join(FORMATS)}. Expected {_EXPECTED}.")
        return {"train": found}, []
    files = sorted(path for path in found.iterdir() if path.suffix in FORMATS and not path.name.startswith("."))
    parts: dict[str, Path] = {}
    for path in files:
        part = _PARTS.get(path.stem.lower().replace("-", "_").replace(".", "_").rpartition("_")[2])
        if part in parts:
            raise DataError(
                f"{shown(parts[part])} and {shown(Path(path.name))} both hold the {part} vectors. Remove or rename one."
            )
        if part is not None:
            parts[part] = path
    if "train" not in parts:
        names = ", ".join(shown(Path(path.name)) for path in files[:8]) or "no such file"
        raise DataError(f"{found} holds {names}, and none is named train. Expected {_EXPECTED}.")
    left_out = [path for path in files if path not in parts.values()]
    if not left_out:
        return parts, []
    return parts, [
        f"Left out: {len(left_out):,} files that are not named train, base or query, such as {left_out[0].name}."
    ]
