"""Examples in files that a user names, read one at a time and written back: images, or a .npy array of examples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._listing import listed
from vqtk.datasets._paths import because, check_regular, shown
from vqtk.datasets._pixels import read_image
from vqtk.datasets._stored import map_array
from vqtk.errors import DataError, printable
from vqtk.nn.types import DataSpec

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif"})
ARRAY = "decoded.npy"
"""The file that examples of an array are written back to."""
_ROWS = 1024


@dataclass(frozen=True)
class NamedExamples:
    """Examples in files, read while they are iterated over: raw ones (*data shape), as a data set holds them.

    `names` has a relative path for each image; it is None for the rows of arrays.
    """

    names: list[str] | None
    count: int
    examples: Iterator[Tensor]


def examples_in(paths: Iterable[Path], data: DataSpec, *, crop: str = "centre") -> NamedExamples:
    """Return the examples in files: images, folders of images, or .npy arrays of examples (n, *data shape).

    An image is cropped and scaled to the size of the data, as the data set `image_folder` does. Its name is relative to
    the folder that was given, after that folder's name if several paths were given.

    Raises: DataError if there are none, kinds are mixed, two have the same name, or the data are not of that kind;
    during iteration, if a file cannot be read.
    """
    given = list(paths)
    arrays = [path for path in given if path.suffix.lower() == ".npy"]
    if arrays and len(arrays) < len(given):
        raise DataError(f"{shown(arrays[0])} is an array, and other files are images. Compress them separately.")
    if arrays:
        rows = [_mapped(path, data) for path in arrays]
        read = (torch.from_numpy(row) for path, one in zip(arrays, rows, strict=True) for row in _read(one, path, data))
        return NamedExamples(None, sum(map(len, rows)), read)
    if data.kind != "image" or data.shape[0] not in (1, 3) or data.shape[1] != data.shape[2]:
        expected = ", ".join(map(str, data.shape))
        raise DataError(
            f"the model's data are {data.kind} of shape ({expected}), which image files do not hold. Give .npy arrays "
            f"of shape (n, {expected})."
        )
    found = _images(given)
    _check_distinct(found)
    size, colours = data.shape[1], "grey" if data.shape[0] == 1 else "rgb"
    images = (read_image(path, size=size, crop=crop, colours=colours) for path in found.values())
    return NamedExamples(list(found), len(found), images)


def write_examples(
    decoded: Iterable[tuple[list[str], Tensor]],
    data: DataSpec,
    folder: Path,
    *,
    count: int,
    array: bool,
    force: bool = False,
) -> None:
    """Write decoded examples (m, *data shape) in training units into a folder.

    Images become PNG files under their names, or numbers if they have none. Examples of an array become `decoded.npy`:
    uint8 pixels, token indices, or training units of other kinds.

    Arguments:
        decoded: names and examples, a batch at a time.
        data: what they are.
        folder: where to.
        count: the number of examples.
        array: whether they came from an array.
        force: whether the folder may hold files, of which those with the same names are replaced.

    Raises: DataError if the folder is not empty, unless `force` is given, if a name leads out of it, or if two have the
        same name.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not force)):
        raise DataError(f"{shown(folder)} exists and is not an empty folder. Choose another one with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    if array:
        _write_array(decoded, data, folder / ARRAY, count)
        return
    number, before = 0, {path for path in folder.rglob("*") if path.is_file()}
    for names, examples in decoded:
        pixels = (data.pixels(examples) * 255).round().to(torch.uint8).cpu()
        listed = names or [f"{number + place:0{len(str(count - 1))}d}" for place in range(len(pixels))]
        for name, image in zip(listed, pixels, strict=True):
            _write_image(image, folder, name, before)
        number += len(pixels)


def png_name(name: str) -> str:
    """Return the name of a decoded image: a PNG file keeps its name, and others get the ending."""
    return name if name.lower().endswith(".png") else f"{name}.png"


def _images(given: list[Path]) -> dict[str, Path]:
    """Return the images by name. Raises: DataError if a path holds none."""
    found: dict[str, Path] = {}
    twice: list[str] = []
    for path in given:
        if not path.exists():
            raise DataError(f"{shown(path)}: there is no such file or folder.")
        if path.is_dir():
            below = listed(path, wanted=lambda name: os.path.splitext(name)[1].lower() in IMAGES)
            if not below:
                raise DataError(f"{shown(path)} holds no images. Expected {', '.join(sorted(IMAGES))}, at any depth.")
            prefix = Path(path.resolve().name) if len(given) > 1 else Path()
            pairs = [((prefix / file).as_posix(), path / file) for file in below]
        else:
            check_regular(path)
            pairs = [(path.name, path)]
        twice += [name for name, _ in pairs if name in found]
        found.update(pairs)
    if twice:
        raise DataError(
            f"two files have the name {printable(twice[0])}. Give their folders, or compress them separately."
        )
    return found


def _check_distinct(names: Iterable[str]) -> None:
    """Raise DataError if two images would be written to the same file, or a name is too long."""
    written: dict[str, str] = {}
    for name in names:
        other = written.setdefault(png_name(name), name)
        if other != name:
            raise DataError(f"{printable(name)} and {printable(other)} would both be decoded to one file. Rename one.")


def _mapped(path: Path, data: DataSpec) -> np.ndarray:
    """Return an array of examples. Raises: DataError if it is damaged, or does not hold such data."""
    if not path.exists():
        raise DataError(f"{shown(path)}: there is no such file.")
    try:
        rows = map_array(path)
    except DataError:
        raise
    except Exception as error:  # What NumPy raises depends on how the file is damaged.
        raise DataError(f"{shown(path)} cannot be read as an array ({because(error)}).") from None
    kinds = {"image": "u", "text": "ui"}.get(data.kind, "fui")
    fits = rows.shape[1:] == data.shape and rows.dtype.kind in kinds
    if not fits or (data.kind == "image" and rows.dtype != np.uint8):
        wanted = {"image": "uint8 pixels", "text": "token indices"}.get(data.kind, "training units")
        expected = ", ".join(map(str, data.shape))
        raise DataError(
            f"{shown(path)} is an array of {rows.dtype} of shape {rows.shape}. Expected {wanted} of shape "
            f"(n, {expected})."
        )
    return rows


def _read(rows: np.ndarray, path: Path, data: DataSpec) -> Iterator[np.ndarray]:
    """Yield rows, copied a few at a time: bytes as they are, other numbers as float32 or int64.

    Raises: DataError if a value is not finite, or not a token.
    """
    for start in range(0, len(rows), _ROWS):
        some = np.array(rows[start : start + _ROWS])
        if some.dtype != np.uint8:
            some = some.astype(np.float32 if some.dtype.kind == "f" else np.int64)
        if some.dtype == np.float32 and not np.isfinite(some).all():
            raise DataError(f"{shown(path)}: a value of examples {start:,} to {start + len(some) - 1:,} is not finite.")
        if data.classes is not None and not 0 <= some.min() <= some.max() < data.classes:
            raise DataError(
                f"{shown(path)}: tokens from {some.min()} to {some.max()}; expected 0 to {data.classes - 1}."
            )
        yield from some


def _write_array(decoded: Iterable[tuple[list[str], Tensor]], data: DataSpec, path: Path, count: int) -> None:
    kind = {"image": np.uint8, "text": np.int64}.get(data.kind, np.float32)
    written = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(count, *data.shape))
    start = 0
    for _, examples in decoded:
        values = (data.pixels(examples) * 255).round() if data.kind == "image" else examples
        written[start : start + len(values)] = values.cpu().numpy().astype(kind)
        start += len(values)
    written.flush()


def _write_image(image: Tensor, folder: Path, name: str, before: set[Path]) -> None:
    """Write an image (c, h, w), which may replace a file that was there `before`.

    Raises: DataError if its name leads out of the folder, or another image has it.
    """
    from PIL import Image

    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name or "\\" in name:
        raise DataError(f"the name {printable(name)!r} leads out of {shown(folder)}, so it is not written.")
    path = folder / png_name(name)
    values = image.movedim(0, 2).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path in before:
        before.remove(path)
        path.unlink()
    try:
        with path.open("xb") as file:
            Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(file, "PNG")
    except FileExistsError:
        raise DataError(f"two examples have the name {printable(name)}, so the second is not written.") from None
