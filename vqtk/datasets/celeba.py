"""CelebA: aligned faces, cut to a centred square."""

import os
from functools import partial
from pathlib import Path

from PIL import Image

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._images import DAMAGED_AT_MOST, Images, load_images
from vqtk.datasets._official import Official
from vqtk.datasets._paths import because, check_regular, check_size, shown
from vqtk.datasets._pixels import read_image
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec, Side
from vqtk.registry import datasets

_FACES, _PARTITION = "img_align_celeba", "list_eval_partition.txt"
_OFFICIAL_SIZE = (178, 218)
_PARTITION_AT_MOST = 1 << 26


def _fetch(folder: Path) -> None:
    from torchvision.datasets import CelebA as TorchvisionCelebA

    TorchvisionCelebA(folder, download=True)
    (folder / TorchvisionCelebA.base_folder / f"{_FACES}.zip").unlink()


_OFFICIAL = Official(
    "CelebA",
    files={_FACES: None, _PARTITION: "d32c9cbf5e040fd4025c592c306e6668"},
    below=("celeba/celeba", "celeba", ""),
    fetch=_fetch,
    address="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
)


@datasets.register("celeba")
class CelebA(Dataset):
    """Aligned faces, cropped and scaled to `size` × `size`: 162,770 to train on and 19,962 to test on.

    Shapes: examples (3, size, size), uint8; training units from -1 to 1.
    Raises: DataError if files are damaged, or missing and cannot be downloaded, which needs the package gdown.
    Source: Liu et al. 2015; the crop and normalisation of the original experiment.
    """

    def __init__(self, *, size: Side = 64):
        self.size = size

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("image", (3, self.size, self.size), mean=0.5, std=0.5)

    def count(self, root: Path) -> int:
        """Return the number of train and test faces that are listed under `root`, or in the complete set.

        Raises: DataError.
        """
        folder = _OFFICIAL.find(root)
        if folder is None:
            return 182_732
        partition = _partition(folder) if (folder / _PARTITION).is_file() else {}
        return sum(part != 1 for part in partition.values())

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return _OFFICIAL.missing(root)

    def load(self, root: Path) -> Splits:
        """Read the faces under `root`, or download them there."""
        folder = _OFFICIAL.folder(root)
        partition = _partition(folder)
        there = _there(folder, partition)
        train, test, skipped = load_images(
            _images(folder, [name for name, part in partition.items() if part == 0], there),
            _images(folder, [name for name, part in partition.items() if part == 2], there),
            read=partial(read_image, size=self.size),
            shape=self.spec.shape,
        )
        why = _difference(folder, partition, there)
        other = _OFFICIAL.note(folder, train=len(train), test=len(test), why=why) if why else None
        notes = [note for note in (other, skipped) if note]
        return Splits(train, test, source=shown(folder), note=" ".join(notes) or None)


def _partition(folder: Path) -> dict[str, int]:
    """Return the split of each face by its file name: 0 train, 1 validation, 2 test. Raises: DataError."""
    path, partition = folder / _PARTITION, {}
    try:
        check_regular(path)
        check_size(path, _PARTITION_AT_MOST, advice=f"Download the file from {_OFFICIAL.address}.")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({because(error)}).") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise DataError(
                f"{path}:{number} is {line[:60]!r}. Expected the name of an image, and 0, 1 or 2 for train, "
                f"validation or test, as in `000001.jpg 0`. Download the file from {_OFFICIAL.address}."
            )
        partition[words[0]] = int(words[1])
    if not {0, 2} <= set(partition.values()):
        raise DataError(
            f"{path} lists {len(partition):,} images; expected some of part 0 (train) and some of 2 (test)."
        )
    return partition


def _there(folder: Path, partition: dict[str, int]) -> set[str]:
    """Return the names of the images that exist. Raises: DataError if more than a tenth are missing."""
    try:
        there = partition.keys() & set(os.listdir(folder / _FACES))
    except OSError as error:
        raise DataError(f"{folder / _FACES} cannot be read ({type(error).__name__}: {error}).") from None
    missing = len(partition) - len(there)
    if missing > DAMAGED_AT_MOST * len(partition):
        first = next(name for name in partition if name not in there)
        raise DataError(
            f"{folder / _FACES}: {missing:,} of the {len(partition):,} images in {_PARTITION} are missing, such as "
            f"{first}. Unpack {_FACES}.zip from {_OFFICIAL.address} there."
        )
    return there


def _images(folder: Path, names: list[str], there: set[str]) -> Images:
    faces = folder / _FACES
    lost = [shown(faces / name) for name in names if name not in there]
    return Images([faces / name for name in names if name in there], lost=lost)


def _difference(folder: Path, partition: dict[str, int], there: set[str]) -> str | None:
    """Return how the files differ from the official ones; None if they do not.

    The images have no checksums, so the size of the first one is checked.
    """
    if not _OFFICIAL.is_complete(folder):
        return "checksums differ"
    if len(there) < len(partition):
        return f"{len(partition) - len(there):,} are missing"
    try:
        with Image.open(folder / _FACES / next(iter(partition))) as image:
            width, height = image.size
    except OSError:
        return "the first is damaged"
    return None if (width, height) == _OFFICIAL_SIZE else f"they measure {width}×{height} instead of 178×218"
