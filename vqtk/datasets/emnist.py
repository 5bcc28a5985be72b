"""EMNIST: handwritten letters and digits."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Literal

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._idx import SUFFIXES, read_idx
from vqtk.datasets._official import Official
from vqtk.datasets._paths import shown
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

Part = Literal["balanced", "letters", "digits", "mnist", "byclass", "bymerge"]
_MERGED = "CIJKLMOPSUVWXYZ"
"""Letters whose lower and upper case are one class in `balanced` and `bymerge`."""
_DIGITS, _EVERY = string.digits, string.digits + string.ascii_uppercase + string.ascii_lowercase
_JOINED = "".join(name for name in _EVERY if name.upper() not in _MERGED or not name.islower())
_LABELS: dict[Part, str] = {
    "balanced": _JOINED,
    "bymerge": _JOINED,
    "byclass": _EVERY,
    "letters": string.ascii_lowercase,
    "digits": _DIGITS,
    "mnist": _DIGITS,
}
_COUNTS: dict[Part, tuple[int, int]] = {
    "balanced": (112_800, 18_800),
    "bymerge": (697_932, 116_323),
    "byclass": (697_932, 116_323),
    "letters": (124_800, 20_800),
    "digits": (240_000, 40_000),
    "mnist": (60_000, 10_000),
}


def _fetch(folder: Path) -> None:
    import gzip
    import shutil

    from torchvision.datasets import EMNIST as TorchvisionEMNIST
    from torchvision.datasets.utils import download_and_extract_archive

    raw = folder / "raw"
    download_and_extract_archive(TorchvisionEMNIST.url, folder, md5=TorchvisionEMNIST.md5, remove_finished=True)
    raw.mkdir()
    for packed in (folder / "gzip").glob("*.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    shutil.rmtree(folder / "gzip")


@datasets.register("emnist")
class EMNIST(Dataset):
    """Handwritten letters and digits, 28×28 grey, upright; `part` is the published selection, such as balanced.

    `balanced` has 112,800 + 18,800 of 47 classes, `letters` 124,800 + 20,800 of 26, `digits` 240,000 + 40,000 of 10,
    `mnist` 60,000 + 10,000 of 10, `bymerge` and `byclass` 697,932 + 116,323 of 47 and 62.

    Shapes: examples (1, 28, 28), uint8; training units (pixel - 0.175) / 0.333, from -0.53 to 2.48.
    Raises: DataError if files are damaged, or missing and cannot be downloaded.
    Source: Cohen et al. 2017, through torchvision.
    """

    def __init__(self, *, part: Part = "balanced"):
        self.part = part

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (1, 28, 28), mean=0.175, std=0.333)

    def count(self, root: Path) -> int:
        """Return the size of the complete set."""
        return sum(_COUNTS[self.part])

    @property
    def _names(self) -> list[str]:
        return [f"emnist-{self.part}-{part}" for part in ("train", "test")]

    @property
    def _official(self) -> Official:
        return Official(
            "EMNIST",
            files={f"{name}-{suffix}": None for name in self._names for suffix in SUFFIXES},
            below=("EMNIST/raw", "emnist", ""),
            fetch=_fetch,
            address="https://www.nist.gov/itl/products-and-services/emnist-dataset (unpacked)",
        )

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return self._official.missing(root)

    def load(self, root: Path) -> Splits:
        """Read the characters under `root`, or download them there."""
        names, official = self._names, self._official
        folder = official.folder(root)
        first = int(self.part == "letters")  # Their labels count from 1.
        train, test = (read_idx(folder, name, what="EMNIST", turned=True, first=first) for name in names)
        complete = (len(train), len(test)) == _COUNTS[self.part]
        note = None if complete else official.note(folder, train=len(train), test=len(test), why="other counts")
        return Splits(train, test, source=shown(folder), note=note, labels=tuple(_LABELS[self.part]))
