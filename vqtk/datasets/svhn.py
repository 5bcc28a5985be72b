"""SVHN: house numbers in MATLAB files."""

from pathlib import Path

import numpy as np
import torch

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._matlab import matlab_shapes, read_matlab
from vqtk.datasets._official import Official
from vqtk.datasets._paths import because, shown
from vqtk.datasets._split import Held
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

_TRAIN, _TEST = "train_32x32.mat", "test_32x32.mat"


def _fetch(folder: Path) -> None:
    from torchvision.datasets import SVHN as TorchvisionSVHN
    from torchvision.datasets.utils import download_url

    for part in ("train", "test"):
        url, name, md5 = TorchvisionSVHN.split_list[part]
        download_url(url, folder, name, md5)


_OFFICIAL = Official(
    "SVHN",
    files={_TRAIN: "e26dedcc434d2e4c54c9b2d4a06d8373", _TEST: "eb5a983be6a315427106f1b164d9cef3"},
    below=("svhn", ""),
    fetch=_fetch,
    address="http://ufldl.stanford.edu/housenumbers",
)


@datasets.register("svhn")
class SVHN(Dataset):
    """Street View house numbers, 32×32 colour: 73,257 to train on and 26,032 to test on.

    Shapes: examples (3, 32, 32), uint8; labels 0 to 9; training units from -1 to 1.
    Raises: DataError if files are damaged, or missing and cannot be downloaded.
    Source: Netzer et al. 2011; the normalisation of the original experiment.
    """

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (3, 32, 32), mean=0.5, std=0.5)

    def count(self, root: Path) -> int:
        """Return the number of digits in the files under `root`, or in the complete set. Raises: DataError."""
        folder = _OFFICIAL.find(root)
        if folder is None:
            return 99_289
        return sum(_length(folder / name) for name in (_TRAIN, _TEST) if (folder / name).is_file())

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return _OFFICIAL.missing(root)

    def load(self, root: Path) -> Splits:
        """Read the digits under `root`, or download them there."""
        folder = _OFFICIAL.folder(root)
        train, test = _read(folder / _TRAIN), _read(folder / _TEST)
        official = _OFFICIAL.is_complete(folder)
        note = None if official else _OFFICIAL.note(folder, train=len(train), test=len(test))
        return Splits(train, test, source=shown(folder), note=note)


def _length(path: Path) -> int:
    try:
        return matlab_shapes(path)["X"][-1]
    except Exception as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> Held:
    """Return the digits of a file: X (32, 32, 3, n) and y (n, 1), where 10 means 0."""
    try:
        content = read_matlab(path, "X", "y")
        images, labels = content["X"], content["y"].ravel()
        if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8 or not len(labels):
            raise ValueError(f"X is {images.shape} of {images.dtype}, and y has {len(labels)} labels")
        if not np.isin(labels, range(1, 11)).all():
            raise ValueError("y has labels other than 1 to 10")
    except Exception as error:
        raise _damaged(path, error) from None
    items = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    return Held(items, torch.from_numpy(labels.astype(np.int64) % 10))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as SVHN ({because(error)}). Expected a MATLAB file with the digits as X "
        f"(32, 32, 3, n), uint8, and their labels as y. Delete the SVHN files in {path.parent} to download them again, "
        f"or get them from {_OFFICIAL.address}."
    )
