"""Read arrays of numbers from MATLAB files of version 5, which may be damaged; SciPy's reader crashes on some."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vqtk.datasets._paths import check_regular
from vqtk.datasets._split import HELD_AT_MOST

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How an element's values are stored, by its type."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""The type of an array's values, by its class; cells, objects, text and the like are not numbers."""
_HEAD = 1024
"""The bytes of an array that hold its class, shape and name."""


class _Array(NamedTuple):
    """An array of a file: its name, shape and type, and the bytes of its values, which may still be compressed."""

    name: str
    shape: tuple[int, ...]
    kind: str
    order: str
    start: bytes
    rest: zlib._Decompress | None


def matlab_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of numbers by its name, without reading the values.

    Raises: DataError if it is not a regular file; ValueError, OSError or zlib.error if it is not such a MATLAB file.
    """
    return {array.name: array.shape for array in _arrays(path)}


def read_matlab(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return arrays by name.

    Raises: as `matlab_shapes`; also ValueError if one is missing, or claims more values than it holds.
    """
    found = {array.name: _values(array) for array in _arrays(path) if array.name in names}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"it has no array {' and '.join(missing)}")
    return found


def _arrays(path: Path) -> Iterator[_Array]:
    check_regular(path)
    with path.open("rb") as file:
        header = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:
            raise ValueError("it is not a MATLAB file of version 5")
        while tag := file.read(8):
            kind, count = _unpacked(f"{order}2I", tag)
            content = file.read(count)
            if len(content) < count:
                raise ValueError("it is cut short")
            inflating = None
            if kind == _COMPRESSED:
                inflating = zlib.decompressobj()
                start = inflating.decompress(content, _HEAD)
                kind, _ = _unpacked(f"{order}2I", start[:8])
                content = start[8:]
            array = _parsed(content, order, inflating) if kind == _MATRIX else None
            if array is not None:
                yield array


def _parsed(content: bytes, order: str, rest: zlib._Decompress | None) -> _Array | None:
    """Return an array of numbers; None if its values are not numbers."""
    (_, flags), at = _element(content, 0, order)
    (_, lengths), at = _element(content, at, order)
    (_, name), at = _element(content, at, order)
    kind = _CLASSES.get(_unpacked(f"{order}I", flags[:4])[0] & 0xFF)
    if kind is None:
        return None
    shape = tuple(np.frombuffer(lengths, f"{order}i4").tolist())
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array claims the shape {shape[:8]}")
    return _Array(name.decode("latin-1"), shape, kind, order, content[at:], rest)


def _values(array: _Array) -> np.ndarray:
    claimed = prod(array.shape)
    if claimed > HELD_AT_MOST:
        raise ValueError(f"{array.name} claims {claimed:,} values; at most {HELD_AT_MOST:,} are read")
    content = array.start
    if array.rest is not None:
        content += array.rest.decompress(array.rest.unconsumed_tail, 8 * claimed + _HEAD)
    (kind, values), _ = _element(content, 0, array.order)
    if kind not in _STORED:
        raise ValueError(f"the values of {array.name} have an unknown type")
    stored = np.frombuffer(values, f"{array.order}{_STORED[kind]}")
    if len(stored) != claimed:
        raise ValueError(f"{array.name} claims {claimed:,} values but has {len(stored):,}")
    return stored.astype(array.kind, copy=False).reshape(array.shape, order="F")


def _element(content: bytes, at: int, order: str) -> tuple[tuple[int, bytes], int]:
    """Return the type and the bytes of the element at an offset, and the offset of the next one."""
    (first,) = _unpacked(f"{order}I", content[at : at + 4])
    if first >> 16:  # A small element, of at most four bytes: they are within the tag.
        return (first & 0xFFFF, content[at + 4 : at + 4 + min(first >> 16, 4)]), at + 8
    (count,) = _unpacked(f"{order}I", content[at + 4 : at + 8])
    value = content[at + 8 : at + 8 + count]
    if len(value) < count:
        raise ValueError("an array is cut short")
    return (first, value), at + 8 + count + -count % 8


def _unpacked(form: str, content: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(form, content)
    except struct.error:
        raise ValueError("it is cut short") from None
