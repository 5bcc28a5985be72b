"""Arrays of bytes out of pickle files that nobody vouches for: what they say is written down, and nothing is run."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from vqtk.datasets._paths import because, check_regular, check_size
from vqtk.errors import DataError

_NAMES = {
    (module, name)
    for modules, name in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct"),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer"),
        (("numpy",), "ndarray"),
        (("numpy",), "dtype"),
    )
    for module in modules
}
"""The globals in a pickled array, as numpy 1 and 2 write them under pickle's protocols 0 to 5."""


_WHOLE = {f"{kind}{size}" for kind in "ui" for size in (1, 2, 4, 8)}
_BYTES_AT_MOST = 1 << 28
_KEYS_SHOWN = 8


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
    """An unpickler that imports nothing: each name of a pickled array becomes a record, every other is refused.

    Bytes are what they are, as Python 3 writes them under the protocols of Python 2, too.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a record of the name. Raises: DataError if it is not part of a pickled array."""
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        if (module, name) not in _NAMES:
            raise DataError(f"it names {module}.{name}, which is not part of an array; nothing of it was run")
        return _Record(name)


def read_pickled(path: Path, *keys: str) -> list[Any]:
    """Return what a pickled mapping holds under some keys, arrays of whole numbers as such; no code in it is run.

    Keys may be text or, as Python 2 writes them, bytes.

    Raises: DataError if the file is damaged, lacks a key, or names anything else than an array's parts.
    """
    try:
        check_regular(path)
        check_size(path, _BYTES_AT_MOST, advice="It is no batch of images.")
        content = path.read_bytes()
        _check_bounds(content)
        entries = _entries(_Reader(io.BytesIO(content), encoding="bytes").load())
        missing = [key for key in keys if key not in entries]
        if missing:
            held = ", ".join(key[:40] for key in list(entries)[:_KEYS_SHOWN]) or "none"
            raise DataError(f"it has no {' and '.join(missing)}; its keys are {held}")
        return [_array(entries[key]) for key in keys]
    except Exception as error:
        reason = str(error).rstrip(".") if isinstance(error, DataError) else because(error)
        raise DataError(
            f"{path} cannot be read: {reason}. Expected a pickled mapping with {' and '.join(keys)}; arrays are of "
            "whole numbers."
        ) from None


def _check_bounds(content: bytes) -> None:
    """Raise DataError if a pickle numbers what it remembers beyond what it can hold: the memory for it is reserved."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("LONG_BINPUT", "PUT") and not 0 <= int(argument or 0) <= len(content):
            raise DataError(f"it numbers something as {argument}, which is more than it can hold")


def _entries(content: Any) -> dict[str, Any]:
    """Return a mapping whose keys are text. Raises: DataError if a pickle holds something else."""
    if not isinstance(content, dict):
        raise DataError("it holds no mapping")
    keys = [key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)[:40] for key in content]
    return dict(zip(keys, content.values(), strict=True))


def _encoded(text: str, encoding: str = "") -> bytes:
    """Return what Python 3 writes bytes as where the protocol has none."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError("it encodes something else than bytes")
    return text.encode("latin1")


def _array(value: Any) -> Any:
    """Return the array that a record stands for, and any other value as it is."""
    if not isinstance(value, _Record):
        return value
    if value.name == "_frombuffer":
        raw, dtype, shape, order = value.arguments[:4]
    else:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    code = dtype.arguments[0].decode() if isinstance(dtype.arguments[0], bytes) else dtype.arguments[0]
    if code not in _WHOLE:
        raise DataError(f"an array is of {str(code)[:20]!r}")
    swapped = dtype.state[1] in (">", b">")
    return np.frombuffer(raw, np.dtype(f"{'>' if swapped else '<'}{code}")).reshape(shape, order=order)
