"""Find and check the files of a user's own data, and name them and their damage on one line."""

from __future__ import annotations

import os
from pathlib import Path

from vqtk.errors import DataError, printable

_REASON_AT_MOST = 200


def expanded(path: Path) -> Path:
    """Return a path with `~` replaced by the user's home; unchanged if there is no home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def derived_cache() -> Path:
    """Return the folder of what is computed from data: $XDG_CACHE_HOME/vqtk, by default ~/.cache/vqtk.

    Raises: DataError if there is no home.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) / "vqtk" if given else user_cache()


def user_cache() -> Path:
    """Return vqtk's cache folder in the user's home. Raises: DataError if there is no home."""
    try:
        return Path.home() / ".cache" / "vqtk"
    except RuntimeError:
        raise DataError(
            "this user has no home directory and HOME is not set, so there is no ~/.cache/vqtk. Set HOME, or for data "
            "sets VQTK_DATA or --data-dir."
        ) from None


def existing(path: str, root: Path) -> Path | None:
    """Return a recipe's path if it exists: absolute, below the data root, or below the working directory."""
    return next((place for place in _places(path, root) if place.exists()), None)


def required(path: str, root: Path, *, expected: str) -> Path:
    """Return a recipe's path, which must be a folder or a regular file.

    Raises: DataError that names the places that were searched, and what was `expected`.
    """
    found = existing(path, root)
    if found is None:
        raise DataError(f"{nothing_at(path, root)} Expected {expected}.")
    if not found.is_dir():
        check_regular(found)
    return found


def nothing_at(path: str, root: Path) -> str:
    """Return a sentence that says where a recipe's path was looked for in vain."""
    places = " or ".join(str(place) for place in _places(path, root))
    return f"data.path is {path!r}, and nothing is at {places}."


def check_regular(path: Path) -> None:
    """Raise DataError if a path exists but is not a regular file: reading a pipe, socket or device may never end."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise DataError(f"{path} is {what}. Expected a regular file.")


def check_size(path: Path, most: int, *, advice: str) -> None:
    """Raise DataError, with the advice, if a file has more than `most` bytes. Raises: OSError if it is missing."""
    size = path.stat().st_size
    if size > most:
        raise DataError(f"{path} has {size:,} bytes; at most {most:,} are read. {advice}".rstrip())


def shown(path: Path) -> str:
    """Return a path in printable form, with control characters and bytes that are not UTF-8 escaped."""
    return printable(str(path))


def because(error: Exception) -> str:
    """Return a library's error as one short line; it is cut because it may quote the file."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_REASON_AT_MOST]}{'…' * (len(text) > _REASON_AT_MOST)}"


def _places(path: str, root: Path) -> list[Path]:
    """Return where a path may be; an absolute one stays itself when it is joined to a folder."""
    given = expanded(Path(path))
    return list(dict.fromkeys([root / given, Path.cwd() / given]))
