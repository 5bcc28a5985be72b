"""Arrays of bytes out of pickle files that nobody vouches for: what they say is written down, and nothing is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from vqtk.errors import DataError

_NAMES = {
    (module, name)
    for modules, name in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct"),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
        (("numpy",), "ndarray"),
        (("numpy",), "dtype"),
        (("_codecs",), "encode"),
    )
    for module in modules
}
"""The globals in a pickled array, as numpy 1 and 2 write them under pickle's protocols 0 to 5."""


class _Record:
    """What a pickle names, what it would call it with, and the state it would set; in place of doing so."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> _Record:
        return _Record(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing: each name of a pickled array becomes a record, every other is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a record of the name. Raises: DataError if it is not part of a pickled array."""
        if (module, name) not in _NAMES:
            raise DataError(f"it names {module}.{name}, which is not part of an array; nothing of it was run")
        return _Record(name)


def read_pickled(path: Path, *keys: str) -> list[Any]:
    """Return what a pickled mapping holds under some keys, arrays as uint8; no code in the file is run.

    Keys may be text or, as Python 2 writes them, bytes.

    Raises: DataError if the file is damaged, lacks a key, or names anything else than an array's parts.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="bytes").load()
        entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        return [_array(entries[key]) for key in keys]
    except Exception as error:
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{path} cannot be read: {reason}. Expected a pickled mapping with {' and '.join(keys)}; arrays are uint8."
        ) from None


def _array(value: Any) -> Any:
    """Return the array that a record stands for, and any other value as it is."""
    if not isinstance(value, _Record):
        return value
    if value.name == "_frombuffer":
        raw, dtype, shape, order = value.arguments[:4]
    else:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise DataError(f"an array is of {dtype.arguments[0]!r}")
    if isinstance(raw, _Record):
        raw = raw.arguments[0].encode("latin1")
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)
