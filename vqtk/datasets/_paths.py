"""Where the files of a recipe's own data lie."""

from __future__ import annotations

from pathlib import Path

from vqtk.errors import DataError


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
    """Return a recipe's path. Raises: DataError that names the places where it was sought and what was `expected`."""
    found = existing(path, root)
    if found is None:
        places = " or ".join(str(place) for place in _places(path, root))
        raise DataError(f"data.path is {path!r}, and nothing is at {places}. Expected {expected}.")
    return found


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted; not the hidden ones nor those in hidden folders."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _places(path: str, root: Path) -> list[Path]:
    """Return where a path may lie; joining an absolute one to a folder yields it alone."""
    given = expanded(Path(path))
    return list(dict.fromkeys([root / given, Path.cwd() / given]))
