"""Pairs of idx files of images and labels, as MNIST and its successors are published."""

from __future__ import annotations

from pathlib import Path

from vqtk.datasets._paths import because, check_size
from vqtk.datasets._split import HELD_AT_MOST, Held
from vqtk.errors import DataError

SUFFIXES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def read_idx(raw: Path, part: str, *, what: str, turned: bool = False, first: int = 0) -> Held:
    """Return the images (n, 1, 28, 28), uint8, and labels of a pair of files, `<part>-images-idx3-ubyte` and so on.

    Arguments:
        raw: their folder.
        part: what their names begin with.
        what: the name of the data set.
        turned: whether rows and columns are exchanged in the files.
        first: the number of the first label.

    Raises: DataError if one is damaged, or they do not fit.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        images, labels = (raw / f"{part}-{suffix}" for suffix in SUFFIXES)
        for path in (images, labels):
            check_size(path, HELD_AT_MOST, advice="")
        items, numbers = read_image_file(str(images)), read_label_file(str(labels)) - first
        if items.shape[1:] != (28, 28) or len(items) != len(numbers) or not len(items) or numbers.min() < 0:
            raise ValueError(f"{tuple(items.shape)} images, {len(numbers)} labels from {first}")
    except Exception as error:
        raise DataError(
            f"{raw}: the {part} files cannot be read as {what} ({because(error)}). Expected the complete idx files. "
            "Delete the damaged ones to download them again."
        ) from None
    return Held((items.mT if turned else items)[:, None].contiguous(), numbers)
