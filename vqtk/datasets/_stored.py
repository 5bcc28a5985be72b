"""Read arrays from untrusted .npy and .npz files, bounding the size that they claim before reading it."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from vqtk.datasets._paths import check_regular
from vqtk.datasets._split import HELD_AT_MOST
from vqtk.errors import printable

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KEYS_SHOWN = 8


def read_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file.

    Raises: DataError if it is not a regular file; ValueError or OSError if it holds no array, one that is too large, or
    objects.
    """
    check_regular(path)
    with path.open("rb") as file:
        _check_claim(file)
    return np.load(path, allow_pickle=False)


def read_arrays(path: Path, *keys: str, optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the arrays of some keys in a .npz file, and of optional keys if they are present.

    Raises: DataError if it is not a regular file; ValueError, OSError or zipfile.BadZipFile if it is not an archive, an
    array is too large or holds objects, or a key is missing.
    """
    check_regular(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a .npz archive")
    with zipfile.ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        missing = [key for key in keys if key not in held]
        if missing:
            raise ValueError(f"it has no key {' and '.join(missing)}; {_keys(held)}")
        wanted = [key for key in (*keys, *optional) if key in held]
        for key in wanted:
            with archive.open(f"{key}.npy") as file:
                _check_claim(file)
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in wanted}


def map_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped, so that it may be of any size. Raises: as `read_array`."""
    check_regular(path)
    with path.open("rb") as file:
        shape = _check_claim(file, most=None)
    return np.load(path, mmap_mode="r", allow_pickle=False) if all(shape) else np.load(path, allow_pickle=False)


def claimed_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array in a .npz file by its key, or of a .npy file under an empty key, from the headers.

    Raises: as `read_arrays`.
    """
    check_regular(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return {"": _check_claim(file)}
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes[name.removesuffix(".npy")] = _check_claim(file)
    return shapes


def _check_claim(file: IO[bytes], *, most: int | None = HELD_AT_MOST) -> tuple[int, ...]:
    """Return the shape that an array's header claims. Raises: ValueError if it is too large, or holds objects."""
    read = _HEADERS.get(np.lib.format.read_magic(file))
    if read is None:
        raise ValueError("its format has an unknown version")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    claimed = prod(shape) * dtype.itemsize
    if most is not None and claimed > most:
        raise ValueError(f"it claims {claimed:,} bytes for an array; at most {most:,} are read")
    return shape


def _keys(held: list[str]) -> str:
    named = ", ".join(printable(key[:40]) for key in held[:_KEYS_SHOWN])
    more = f" and {len(held) - _KEYS_SHOWN:,} more" if len(held) > _KEYS_SHOWN else ""
    return f"its keys are {named}{more}" if held else "it is empty"
