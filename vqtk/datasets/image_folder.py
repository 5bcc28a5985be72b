"""Any folder of images as a data set."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._images import Images, load_images, read_image, skipped_note
from vqtk.datasets._paths import existing, required
from vqtk.errors import DataError
from vqtk.nn.types import Count, DataSpec
from vqtk.registry import datasets

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


@datasets.register("image_folder")
class ImageFolder(Dataset):
    """The images in a folder and its sub-folders, cropped and scaled to `size` squared.

    `path` is absolute, or below the data root or the working directory. `crop` `centre` takes the largest centred
    square, `none` squeezes. The fraction `test` of the files is held out, chosen by their names, so that adding files
    moves none; sub-folders `train` and `test` are used instead where there are both. Where all images lie in
    sub-folders, these are their labels. Transparent parts become white.

    Shapes: items (3, size, size), or (1, size, size) if grey, uint8; training units from -1 to 1.
    Raises: DataError if there are no images, or more than a tenth of them cannot be read; up to there they are skipped.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        size: Count = 64,
        crop: Literal["centre", "none"] = "centre",
        colours: Literal["rgb", "grey"] = "rgb",
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ):
        self.path, self.size, self.crop, self.colours, self.test = path, size, crop, colours, test

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the items."""
        channels = 1 if self.colours == "grey" else 3
        return DataSpec("image", (channels, self.size, self.size), mean=0.5, std=0.5)

    def count(self, root: Path) -> int | None:
        """Return how many images are in the folder; None if it is not there."""
        folder = existing(self.path, root)
        if folder is None:
            return None
        files = _files(folder)
        own = _own_splits(files)
        return sum(map(len, own)) if own else len(files)

    def load(self, root: Path) -> Splits:
        """Read the images in the folder."""
        folder = required(self.path, root, expected="a folder of images")
        if not folder.is_dir():
            raise DataError(f"data.path is {self.path!r}; {folder} is a file. Expected a folder of images.")
        files = _files(folder)
        if not files:
            raise DataError(f"{folder} holds no images. Expected {', '.join(sorted(_SUFFIXES))}, at any depth.")
        own = _own_splits(files)
        parts = own or self._divided(folder, files)
        read = partial(read_image, size=self.size, crop=self.crop, colours=self.colours)
        train, test = load_images(*_labelled(folder, parts, depth=1 if own else 0), read=read, shape=self.spec.shape)
        beside = len(files) - sum(map(len, parts))
        left_out = f"{beside:,} images in {folder} are neither in train nor in test, and left out." if beside else None
        notes = [note for note in (left_out, skipped_note(train, test)) if note]
        return Splits(train, test, source=str(folder), note=" ".join(notes) or None)

    def _divided(self, folder: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
        """Return the files to train on and those held out, by a hash of each file's name. Raises: DataError."""
        train = [file for file in files if _place(file) >= self.test]
        test = [file for file in files if _place(file) < self.test]
        if not train or not test:
            raise DataError(
                f"{folder}: of {len(files):,} images none is left to {'test' if train else 'train'} on, with data.test "
                f"{self.test}. Add images, set data.test nearer to 0.5, or put them into sub-folders train and test."
            )
        return train, test


def _files(folder: Path) -> list[Path]:
    """Return the images in a folder, relative to it, in order; hidden ones aside, and no folder twice.

    Links are followed. Raises: DataError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Expected a folder of images.")

    files: list[Path] = []
    seen: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        below[:] = [] if real in seen else [name for name in below if not name.startswith(".")]
        if real not in seen:
            files += [Path(place, name).relative_to(folder) for name in names if _is_image(name)]
        seen.add(real)
    return sorted(files)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES


def _own_splits(files: list[Path]) -> tuple[list[Path], list[Path]] | None:
    """Return the files in sub-folders train and test, if there are both."""
    inner = [file for file in files if len(file.parts) > 1]
    train, test = ([file for file in inner if file.parts[0] == part] for part in ("train", "test"))
    return (train, test) if train and test else None


def _place(file: Path) -> float:
    """Return a number from 0 to 1 that a file's relative path decides."""
    digest = hashlib.sha256(file.as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _labelled(folder: Path, splits: Sequence[list[Path]], *, depth: int) -> list[Images]:
    """Return the images of each split, labelled by their sub-folders at a depth if all lie in such, and in several."""
    files = [file for split in splits for file in split]
    names = sorted({file.parts[depth] for file in files if len(file.parts) > depth + 1})
    labels = {name: label for label, name in enumerate(names)}
    labelled = len(names) > 1 and all(len(file.parts) > depth + 1 for file in files)
    return [
        Images([folder / file for file in split], [labels[file.parts[depth]] for file in split] if labelled else None)
        for split in splits
    ]
