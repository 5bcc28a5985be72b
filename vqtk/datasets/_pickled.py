"""Read arrays of whole numbers from untrusted pickle files without executing anything in them."""

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
"""The globals that a pickled array may name, as numpy 1 and 2 write them with pickle's protocols 0 to 5."""


_WHOLE = {f"{kind}{size}" for kind in "ui" for size in (1, 2, 4, 8)}
_BYTES_AT_MOST = 1 << 28
_KEYS_SHOWN = 8


class _Record:
    """Records the name, the arguments and the state of an object that the pickle would make, instead of making it."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> _Record:
        return _Record(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing: the names of a pickled array become records, and all others are refused.

    Bytes are accepted in every form, including the one in which Python 3 writes them with the protocols of Python 2.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a record of the name. Raises: DataError if it is not part of a pickled array."""
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        if (module, name) not in _NAMES:
            raise DataError(f"it names {module}.{name}, which is not part of an array; nothing was executed")
        return _Record(name)


def read_pickled(path: Path, *keys: str) -> list[Any]:
    """Return the values of some keys in a pickled mapping, with arrays of whole numbers, without executing its code.

    Keys may be text or, as Python 2 writes them, bytes.

    Raises: DataError if the file is damaged, lacks a key, or names anything except the parts of an array.
    """
    try:
        check_regular(path)
        check_size(path, _BYTES_AT_MOST, advice="It is not a batch of images.")
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
            f"{path} cannot be read: {reason}. Expected a pickled mapping with {' and '.join(keys)}, with arrays of "
            "whole numbers."
        ) from None


def _check_bounds(content: bytes) -> None:
    """Raise DataError if a pickle's memo has an index larger than the file: the unpickler would reserve its memory."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("LONG_BINPUT", "PUT") and not 0 <= int(argument or 0) <= len(content):
            raise DataError(f"it has the memo index {argument}, which is more than it can hold")


def _entries(content: Any) -> dict[str, Any]:
    """Return a mapping with its keys as text. Raises: DataError if a pickle holds something else."""
    if not isinstance(content, dict):
        raise DataError("it does not hold a mapping")
    keys = [key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)[:40] for key in content]
    return dict(zip(keys, content.values(), strict=True))


def _encoded(text: str, encoding: str = "") -> bytes:
    """Return the bytes that Python 3 writes as encoded text, with protocols that have no bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError("it encodes something other than bytes")
    return text.encode("latin1")


def _array(value: Any) -> Any:
    """Return the array that a record describes; any other value unchanged."""
    if not isinstance(value, _Record):
        return value
    if value.name == "_frombuffer":
        raw, dtype, shape, order = value.arguments[:4]
    else:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    code = dtype.arguments[0].decode() if isinstance(dtype.arguments[0], bytes) else dtype.arguments[0]
    if code not in _WHOLE:
        raise DataError(f"an array has the type {str(code)[:20]!r}, which is not of whole numbers")
    swapped = dtype.state[1] in (">", b">")
    return np.frombuffer(raw, np.dtype(f"{'>' if swapped else '<'}{code}")).reshape(shape, order=order)
