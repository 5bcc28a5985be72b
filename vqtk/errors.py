"""The errors that a user can cause; each message says where, what was given, what was expected, what to do."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

_MOST_LINES, _MOST_CHARACTERS = 40, 2_000
"""How long a message may be, and a line of it: what it quotes may come from a foreign file."""
_LONGEST_WORD = 200
"""Characters of a word that is compared with the known ones; the time grows with their square."""


def printable(text: str) -> str:
    """Return text as one line: control characters, and bytes that are not UTF-8, are escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"  # A file's name holds such a byte so.
    return f"\\x{ord(character) - 0xDC00:02x}" if is_byte else ascii(character)[1:-1]


def shortened(text: str, *, most: int = 60) -> str:
    """Return the text, cut where it is too long for a message."""
    return text if len(text) <= most else f"{text[: most - 3]}…"


class VqtkError(Exception):
    """Root of every error that vqtk raises on purpose; the command line prints it without a traceback."""

    def __str__(self) -> str:
        """Return the message, which neither floods nor steers a terminal, whatever it quotes."""
        lines = super().__str__().split("\n")
        shown = [printable(shortened(line, most=_MOST_CHARACTERS)) for line in lines[:_MOST_LINES]]
        more = [f"and {len(lines) - _MOST_LINES:,} more lines."] if len(lines) > _MOST_LINES else []
        return "\n".join([*(shortened(line, most=_MOST_CHARACTERS) for line in shown), *more])


class RecipeError(VqtkError):
    """A recipe or an override says something that cannot be built."""


class RegistryError(VqtkError):
    """A component cannot be registered or found, or a plugin cannot be loaded."""


class ShapeError(VqtkError):
    """A component was given, or would produce, features of a size that does not fit."""


class CheckpointError(VqtkError):
    """A run directory, a weights file or a trainer's state cannot be read or does not fit the model."""


class DivergenceError(VqtkError):
    """Training has made losses or weights that are not finite."""


class DataError(VqtkError):
    """A data set is missing or damaged."""


class VqtkWarning(UserWarning):
    """Something that a user should know, and that stops nothing; the command line prints it as a line."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed")


def closest(word: str, known: list[str]) -> str | None:
    """Return the nearest of the known names, if one is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(str(word)[:_LONGEST_WORD], known, n=1, cutoff=0.5)), None)


def nearest(word: str, known: list[str]) -> str:
    """Return `Did you mean …? ` for the nearest of the known names, or an empty string."""
    close = closest(word, known)
    return f"Did you mean {close!r}? " if close else ""


def on_one_line(error: BaseException, *, where: str | None = None) -> str:
    """Return an error of other code on one line, with the file and line that raised it, or with `where`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = where or f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, of the host or of a device, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in told for sign in _OUT_OF_MEMORY)


def told_by_system(error: OSError) -> str:
    """Return what the system refused, of which file, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{where}the disk is full, or its quota is used up ({reason}). Free some of it."
    if error.errno in _REFUSED:
        return f"{where}it cannot be read or written ({reason}). Make it so, or choose another place."
    return f"{where}{reason}."
