"""CIFAR-10: tiny photographs in pickled batches, which are read without executing their code."""

from pathlib import Path

import numpy as np
import torch

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._official import Official
from vqtk.datasets._paths import shown
from vqtk.datasets._pickled import read_pickled
from vqtk.datasets._split import Held
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN: dict[str, str | None] = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
_TEST: dict[str, str | None] = {"test_batch": "40351d587109b95175f43aff81a1287e"}


def _fetch(folder: Path) -> None:
    from torchvision.datasets import CIFAR10 as known
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(known.url, folder, filename=known.filename, md5=known.tgz_md5, remove_finished=True)


_OFFICIAL = Official(
    "CIFAR-10",
    files={**_TRAIN, **_TEST},
    below=("cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar10", ""),
    fetch=_fetch,
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (unpacked)",
)


@datasets.register("cifar10")
class CIFAR10(Dataset):
    """Tiny photographs of ten classes, 32×32 colour: 50,000 to train on and 10,000 to test on.

    Shapes: examples (3, 32, 32), uint8; labels 0 to 9; training units from -1 to 1.
    Raises: DataError if files are damaged, or missing and cannot be downloaded.
    Source: Krizhevsky 2009; the normalisation of the original experiment.
    """

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (3, 32, 32), mean=0.5, std=0.5)

    def count(self, root: Path) -> int:
        """Return the number of photographs in the files under `root`, or in the complete set. Raises: DataError."""
        folder = _OFFICIAL.find(root)
        if folder is None:
            return 60_000
        return sum(len(_batch(folder / name)[1]) for name in _OFFICIAL.files if (folder / name).is_file())

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return _OFFICIAL.missing(root)

    def load(self, root: Path) -> Splits:
        """Read the photographs under `root`, or download them there."""
        folder = _OFFICIAL.folder(root)
        train, test = _read(folder, _TRAIN), _read(folder, _TEST)
        official = _OFFICIAL.is_complete(folder)
        note = None if official else _OFFICIAL.note(folder, train=len(train), test=len(test))
        return Splits(train, test, source=shown(folder), note=note, labels=_NAMES)


def _read(folder: Path, names: dict[str, str | None]) -> Held:
    batches = [_batch(folder / name) for name in names]
    items = torch.from_numpy(np.concatenate([images for images, _ in batches])).view(-1, 3, 32, 32)
    return Held(items, torch.tensor([label for _, labels in batches for label in labels]))


def _batch(path: Path) -> tuple[np.ndarray, list[int]]:
    """Return the images (n, 3072), uint8, and labels of a batch. Raises: DataError."""
    try:
        images, labels = read_pickled(path, "data", "labels")
        labels = labels.tolist() if isinstance(labels, np.ndarray) and labels.ndim == 1 else labels
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not isinstance(labels, list):
            raise DataError(
                f"{path} is not a batch of CIFAR-10. Expected an array of uint8 as data, and a list as labels."
            )
        if images.shape != (len(labels), 3072) or not labels:
            raise DataError(
                f"{path} is not a batch of CIFAR-10: data is {images.shape} with {len(labels)} labels. Expected "
                "(n, 3072) with n labels."
            )
        strange = [label for label in labels if not isinstance(label, int) or not 0 <= label < 10]
        if strange:
            raise DataError(
                f"{path} is not a batch of CIFAR-10: it has the label {str(strange[0])[:20]!r}. Expected 0 to 9."
            )
    except DataError as error:
        raise DataError(f"{error} Download the batches from {_OFFICIAL.address}.") from None
    return images, labels
