"""MNIST: the full set if it is present or can be downloaded, otherwise 5,500 of its digits that ship with vqtk."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._idx import SUFFIXES, read_idx
from vqtk.datasets._official import quietly
from vqtk.datasets._split import Held
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

_SHIPPED = "mnist_small.npz"
_FILES = [f"{part}-{suffix}" for part in ("train", "t10k") for suffix in SUFFIXES]


@datasets.register("mnist")
class MNIST(Dataset):
    """Handwritten digits, 28×28 grey: 60,000 to train on and 10,000 to test on.

    If they are missing and cannot be downloaded, digits that ship with vqtk are used instead: 4,500 of MNIST's training
    digits to train on, and every tenth of its test digits, 1,000, to test on.

    Shapes: examples (1, 28, 28), uint8; training units (pixel - 0.1307) / 0.3081, from -0.42 to 2.82.
    Raises: DataError if files are present but damaged.
    Source: LeCun et al. 1998, through torchvision; the normalisation of the original experiment.
    """

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (1, 28, 28), mean=0.1307, std=0.3081)

    def count(self, root: Path) -> int:
        """Return the size of the complete set."""
        return 70_000

    def missing(self, root: Path) -> str:
        """Return a sentence if the full set is not under `root` yet."""
        if _find(root):
            return ""
        return (
            f"MNIST is not in {root}: the first run downloads it, or else trains on 4,500 digits that ship with vqtk."
        )

    def load(self, root: Path) -> Splits:
        """Read the digits under `root`, or download them there, or fall back on the shipped ones."""
        found = _find(root)
        if found is None:
            found = root if _download(root) else None
        if found is None:
            return _shipped(root)
        train, test = (_read(found, train=train) for train in (True, False))
        return Splits(train, test, source=str(found))


def _find(root: Path) -> Path | None:
    """Return torchvision's root, which holds MNIST/raw, if `root` is it or is within it; None otherwise."""
    for candidate in (root, root.parent, root.parent.parent):
        if (candidate / "MNIST" / "raw" / _FILES[0]).is_file() and root in (
            candidate, candidate / "MNIST", candidate / "MNIST" / "raw",
        ):  # fmt: skip
            return candidate
    return None


def _download(root: Path) -> bool:
    from torchvision.datasets import MNIST as TorchvisionMNIST

    try:
        with quietly():
            TorchvisionMNIST(root, train=True, download=True)
    except (OSError, RuntimeError):
        return False
    return True


def _read(root: Path, *, train: bool) -> Held:
    raw = root / "MNIST" / "raw"
    missing = [name for name in _FILES if not (raw / name).is_file()]
    if missing:
        raise DataError(
            f"{raw}: {', '.join(missing)} missing. Expected the four idx files. Delete the folder to download them "
            "again."
        )
    return read_idx(raw, "train" if train else "t10k", what="MNIST")


def _shipped(root: Path) -> Splits:
    """Return the digits in the package: 450 of each class of the training set, and every tenth of the test set.

    The two splits are parts of MNIST's own, so a model trained on its 60,000 digits has not seen these test digits.
    """
    with files("vqtk.datasets").joinpath(f"digits/{_SHIPPED}").open("rb") as file:
        stored = np.load(file)
        train, test = (
            Held(torch.from_numpy(stored[f"{part}_images"])[:, None], torch.from_numpy(stored[f"{part}_labels"]).long())
            for part in ("train", "test")
        )
    return Splits(
        train,
        test,
        source=f"vqtk/datasets/digits/{_SHIPPED}",
        note=(
            f"MNIST is not in {root} and could not be downloaded: using the digits that ship with vqtk (4,500 of its "
            "60,000 training digits to train on, 1,000 of its 10,000 test digits, every tenth, to test on). Set "
            "VQTK_DATA or --data-dir to use the full set."
        ),
    )
