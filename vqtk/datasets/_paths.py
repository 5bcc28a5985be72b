"""Where the files of a recipe's own data lie, and how a foreign file or its damage is named in a line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vqtk.errors import DataError, printable

_REASON_AT_MOST = 200


def expanded(path: Path) -> Path:
    """Return a path with `~` as the user's home; as it is, where there is no home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def user_cache() -> Path:
    """Return the folder below the user's home that vqtk keeps things in. Raises: DataError if there is no home."""
    try:
        return Path.home() / ".cache" / "vqtk"
    except RuntimeError:
        raise DataError(
            "this user has no home directory, and HOME is not set, so there is no ~/.cache/vqtk. Set HOME; for data "
            "sets, VQTK_DATA or --data-dir."
        ) from None


def existing(path: str, root: Path) -> Path | None:
    """Return a recipe's path if it is there: absolute, below the data root, or below the working directory."""
    return next((place for place in _places(path, root) if place.exists()), None)


def required(path: str, root: Path, *, expected: str) -> Path:
    """Return a recipe's path, a folder or a regular file.

    Raises: DataError that names the places where it was sought and what was `expected`.
    """
    found = existing(path, root)
    if found is None:
        places = " or ".join(str(place) for place in _places(path, root))
        raise DataError(f"data.path is {path!r}, and nothing is at {places}. Expected {expected}.")
    if not found.is_dir():
        check_regular(found)
    return found


def check_regular(path: Path) -> None:
    """Raise DataError if a path is there but no regular file: reading a pipe, socket or device may never end."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise DataError(f"{path} is {what}. Expected a regular file.")


def check_size(path: Path, most: int, *, advice: str) -> None:
    """Raise DataError, with the advice, if a file has more than `most` bytes. Raises: OSError if it is missing."""
    size = path.stat().st_size
    if size > most:
        raise DataError(f"{path} has {size:,} bytes, and at most {most:,} are read. {advice}")


def files_below(folder: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> list[Path]:
    """Return the regular files below a folder whose names are wanted, relative to it, sorted.

    Links are followed, and no folder is read twice, so that links in a circle end; what is hidden is passed over.
    Raises: DataError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Expected a folder that can be.")

    files: list[Path] = []
    seen: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        # In order of name, so that of two ways to a folder the same one is always taken.
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real not in seen:
            chosen = (Path(place, name) for name in names if not name.startswith(".") and wanted(name))
            files += [path.relative_to(folder) for path in chosen if path.is_file()]
        seen.add(real)
    return sorted(files)


def shown(path: Path) -> str:
    """Return a path that can be printed: what is no UTF-8 or a control character is printable."""
    return printable(str(path))


def because(error: Exception) -> str:
    """Return what a library says is wrong, as one short line: it may quote the file."""
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:_REASON_AT_MOST]}{'…' * (len(told) > _REASON_AT_MOST)}"


def _places(path: str, root: Path) -> list[Path]:
    """Return where a path may lie; joining an absolute one to a folder yields it alone."""
    given = expanded(Path(path))
    return list(dict.fromkeys([root / given, Path.cwd() / given]))
