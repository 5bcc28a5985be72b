"""Image files as items of a data set: decoded in parallel and held, or read when needed if they are too many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional

from vqtk.datasets._split import DAMAGED_AT_MOST, HELD_AT_MOST, Files, Held, Split
from vqtk.errors import DataError

_TRIED = 100


@dataclass
class Images:
    """The image files of a split, their labels where there are any, and the names of those known to be lost."""

    paths: list[Path]
    labels: list[int] | None = None
    lost: list[str] = field(default_factory=list)


def read_image(path: Path, *, size: int, crop: str = "centre", colours: str = "rgb") -> Tensor:
    """Return an image as uint8 (3, size, size), or (1, size, size) if `colours` is `grey`.

    `centre` scales the shorter side to `size` and cuts the longer one; `none` squeezes both. Scaling is bilinear and
    antialiased. Images are turned as their EXIF says; transparent parts become white; of an animation the first
    frame is taken.

    Raises: DataError if the file is no whole image.
    """
    try:
        with Image.open(path) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened)).convert("L" if colours == "grey" else "RGB")
        scaled = functional.resize(image, [size] if crop == "centre" else [size, size])
        return functional.pil_to_tensor(functional.center_crop(scaled, [size, size]))
    except Exception as error:
        raise DataError(f"{path} cannot be read as an image ({type(error).__name__}: {error}).") from None


def load_images(
    train: Images, test: Images, *, read: Callable[[Path], Tensor], shape: Sequence[int]
) -> tuple[Split, Split]:
    """Return two splits of images of a shape: held in memory if they fit, otherwise read by workers.

    Images that are damaged are left out and named in `skipped`: at once where they are held, when they are met where
    they are not; then some are tried out first.

    Raises: DataError if more than a tenth of the images, or all of a split, are damaged.
    """
    if (len(train.paths) + len(test.paths)) * prod(shape) > HELD_AT_MOST:
        _try_out([*train.paths, *test.paths], read)
        return _from_files(train, read), _from_files(test, read)
    errors: list[DataError] = []
    splits = [_held(images, read, shape, errors) for images in (train, test)]
    _check(errors, len(train.paths) + len(test.paths), all_of_a_split=not all(map(len, splits)))
    return splits[0], splits[1]


def skipped_note(*splits: Split) -> str | None:
    """Return a line that says how many images of the splits were skipped, and names the first."""
    skipped = [name for split in splits for name in split.skipped]
    if not skipped:
        return None
    more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
    return f"{len(skipped):,} damaged image{'s' if more else ''} skipped: {skipped[0]}{more}"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image without transparency and with at most 8 bits a value, which `convert` would clip to."""
    if image.mode == "F":
        raise ValueError("its values are floating-point, of no known range")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its values are of more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper)
    return image


def _held(images: Images, read: Callable[[Path], Tensor], shape: Sequence[int], errors: list[DataError]) -> Held:
    items = torch.empty((len(images.paths), *shape), dtype=torch.uint8)

    def fill(index: int) -> None:
        items[index] = read(images.paths[index])

    found = _in_parallel(fill, range(len(items)))
    errors += found.values()
    labels = None if images.labels is None else torch.tensor(images.labels)
    if found:
        whole = torch.tensor([index not in found for index in range(len(items))])
        items, labels = items[whole], None if labels is None else labels[whole]
    return Held(items, labels, skipped=[*images.lost, *(str(images.paths[index]) for index in found)])


def _from_files(images: Images, read: Callable[[Path], Tensor]) -> Files:
    split = Files(images.paths, read, None if images.labels is None else torch.tensor(images.labels))
    split.skipped = list(images.lost)
    return split


def _try_out(paths: list[Path], read: Callable[[Path], Tensor]) -> None:
    """Read some of the files, evenly spread. Raises: DataError if too many of them are damaged."""
    tried = range(0, len(paths), -(-len(paths) // _TRIED))
    errors = _in_parallel(lambda index: read(paths[index]), tried)
    _check(list(errors.values()), len(tried), all_of_a_split=False)


def _in_parallel(act: Callable[[int], object], indices: Sequence[int]) -> dict[int, DataError]:
    """Call a function for each index, in threads, and return the errors by their index, in order."""

    def attempt(index: int) -> DataError | None:
        try:
            act(index)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = pool.map(attempt, indices)
        return {index: error for index, error in zip(indices, errors, strict=True) if error}


def _check(errors: list[DataError], tried: int, *, all_of_a_split: bool) -> None:
    if len(errors) > DAMAGED_AT_MOST * tried or (errors and all_of_a_split):
        raise DataError(
            f"{len(errors):,} of {tried:,} images cannot be read; the first: {errors[0]} At most a tenth of them may "
            "be damaged, and not all of a split. Replace or delete the damaged files."
        )
