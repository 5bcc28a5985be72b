"""Arrays out of .npy and .npz files that nobody vouches for: what they claim to hold is bounded before it is read."""

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

    Raises: DataError if it is no regular file; ValueError or OSError if it holds no array, too large a one, or objects.
    """
    check_regular(path)
    with path.open("rb") as file:
        _check_claim(file)
    return np.load(path, allow_pickle=False)


def read_arrays(path: Path, *keys: str, optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the arrays that a .npz file holds under some keys, and under optional ones where it has them.

    Raises: DataError if it is no regular file; ValueError, OSError or zipfile.BadZipFile if it is no archive, an array
    is too large, or a key is not there. Objects are refused.
    """
    check_regular(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz archive")
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


def claimed_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a .npz file by its key, or of a .npy file's under an empty key, unread.

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


def _check_claim(file: IO[bytes]) -> tuple[int, ...]:
    """Return the shape that an array's header claims. Raises: ValueError if it is too large, or holds objects."""
    read = _HEADERS.get(np.lib.format.read_magic(file))
    if read is None:
        raise ValueError("its format is of an unknown version")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    claimed = prod(shape) * dtype.itemsize
    if claimed > HELD_AT_MOST:
        raise ValueError(f"it claims {claimed:,} bytes for an array, and at most {HELD_AT_MOST:,} are read")
    return shape


def _keys(held: list[str]) -> str:
    named = ", ".join(printable(key[:40]) for key in held[:_KEYS_SHOWN])
    more = f" and {len(held) - _KEYS_SHOWN:,} more" if len(held) > _KEYS_SHOWN else ""
    return f"its keys are {named}{more}" if held else "it is empty"
