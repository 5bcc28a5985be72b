"""The errors that a user can cause; each message says where, what was given, what was expected, what to do."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

_MOST_LINES, _MOST_CHARACTERS = 40, 2_000
"""The most lines of a message, and characters of a line: a message may quote a file that vqtk did not write."""
_LONGEST_WORD = 200
"""Characters of a word that are compared with the known names; the time grows with their square."""


def printable(text: str) -> str:
    """Return text as one line, with control characters and bytes that are not UTF-8 escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    is_byte = (
        "\udc80" <= character <= "\udcff"
    )  # Python's `surrogateescape`: how a file name holds an undecodable byte.
    return f"\\x{ord(character) - 0xDC00:02x}" if is_byte else ascii(character)[1:-1]


def shortened(text: str, *, most: int = 60) -> str:
    """Return text cut to at most `most` characters, with `…` where it was cut."""
    return text if len(text) <= most else f"{text[: most - 3]}…"


class VqtkError(Exception):
    """Root of every error that vqtk raises on purpose; the command line prints it without a traceback."""

    def __str__(self) -> str:
        """Return the message, cut and escaped, so that what it quotes can neither flood nor control a terminal."""
        lines = super().__str__().split("\n")
        shown = [printable(shortened(line, most=_MOST_CHARACTERS)) for line in lines[:_MOST_LINES]]
        more = [f"and {len(lines) - _MOST_LINES:,} more lines."] if len(lines) > _MOST_LINES else []
        return "\n".join([*(shortened(line, most=_MOST_CHARACTERS) for line in shown), *more])


class RecipeError(VqtkError):
    """A recipe or an override describes something that cannot be built."""


class RegistryError(VqtkError):
    """A component cannot be registered or found, or a plugin cannot be loaded."""


class ShapeError(VqtkError):
    """A component was given features of a shape that it cannot take, or would produce one that does not fit."""


class LockedError(VqtkError):
    """Another process has the lock of a run or a study."""


class LostError(VqtkError):
    """Another process of a run has ended, or cannot be reached."""


class CheckpointError(VqtkError):
    """A run directory, a weights file or a trainer's state cannot be read or does not fit the model."""


class DivergenceError(VqtkError):
    """Training has produced losses or weights that are not finite."""


class DataError(VqtkError):
    """A data set is missing or damaged."""


class VqtkWarning(UserWarning):
    """Something that a user should know but that stops nothing; the command line prints it as one line."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed")


def closest(word: str, known: list[str], *, cutoff: float = 0.5) -> str | None:
    """Return the known name nearest to a word, in whatever case; None if none is as similar as `cutoff`, at most 1."""
    from difflib import get_close_matches

    folded = {name.casefold(): name for name in reversed(known)}
    near = get_close_matches(str(word)[:_LONGEST_WORD].casefold(), list(folded)[::-1], n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def nearest(word: str, known: list[str]) -> str:
    """Return `Did you mean …? ` with the known name nearest to a word; an empty string if none is near."""
    close = closest(word, known)
    return f"Did you mean {close!r}? " if close else ""


def on_one_line(error: BaseException, *, where: str | None = None) -> str:
    """Return an error of other code on one line, with the file and line that raised it, or with `where`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = where or f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the host or a device is out of memory, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _OUT_OF_MEMORY)


def told_by_system(error: OSError) -> str:
    """Return which file the operating system refused, why, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{where}the disk is full, or its quota is used up ({reason}). Free some space."
    if error.errno in _REFUSED:
        return f"{where}it cannot be read or written ({reason}). Change its permissions, or choose another path."
    return f"{where}{reason}."
