"""Fashion-MNIST: pictures of clothes."""

from __future__ import annotations

from pathlib import Path

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._idx import SUFFIXES, read_idx
from vqtk.datasets._official import Official
from vqtk.datasets._paths import shown
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def _fetch(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST as TorchvisionFashionMNIST
    from torchvision.datasets.utils import download_and_extract_archive

    raw = folder / "raw"
    for name, md5 in TorchvisionFashionMNIST.resources:
        url = TorchvisionFashionMNIST.mirrors[0] + name
        download_and_extract_archive(url, raw, filename=name, md5=md5, remove_finished=True)


_OFFICIAL = Official(
    "Fashion-MNIST",
    files={f"{part}-{suffix}": None for part in ("train", "t10k") for suffix in SUFFIXES},
    below=("FashionMNIST/raw", "fashion_mnist", "fashion-mnist"),
    fetch=_fetch,
    address="https://github.com/zalandoresearch/fashion-mnist (unpacked)",
)


@datasets.register("fashion_mnist")
class FashionMNIST(Dataset):
    """Pictures of clothes of ten kinds, 28×28 grey: 60,000 to train on and 10,000 to test on.

    Shapes: examples (1, 28, 28), uint8; labels 0 to 9; training units (pixel - 0.286) / 0.353, from -0.81 to 2.02.
    Raises: DataError if files are damaged, or missing and cannot be downloaded.
    Source: Xiao et al. 2017, through torchvision.
    """

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (1, 28, 28), mean=0.286, std=0.353)

    def count(self, root: Path) -> int:
        """Return the size of the complete set."""
        return 70_000

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return _OFFICIAL.missing(root)

    def load(self, root: Path) -> Splits:
        """Read the pictures under `root`, or download them there."""
        folder = _OFFICIAL.folder(root)
        train, test = (read_idx(folder, part, what="Fashion-MNIST") for part in ("train", "t10k"))
        complete = (len(train), len(test)) == (60_000, 10_000)
        note = None if complete else _OFFICIAL.note(folder, train=len(train), test=len(test), why="other counts")
        return Splits(train, test, source=shown(folder), note=note, labels=_NAMES)
