"""The files of a folder as columns of numbers and names, so that millions of them take little memory."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from vqtk.errors import DataError

_SETTLED_NS = 2_000_000_000
"""The age from which a folder's time of change is trusted: some file systems count in steps of two seconds."""
_LINES = 1 << 14


@dataclass(frozen=True)
class Columns:
    """Files and the folders that hold them, in order of their paths; folder 0 is the one that was listed.

    Arguments:
        parents: the folder that each folder is in, -1 for folder 0 (d,), int32.
        changed: when each folder's entries last changed, in ns; -1 if that was too recent to be sure of (d,), int64.
        folder_names: the names of the folders, one after another, uint8, and where each ends (d,), int64.
        folders: the folder that each file is in (n,), int32.
        sizes: the bytes of each file (n,), int64.
        places: a number in [0, 1) that depends only on the file's relative path (n,), float64.
        names: the names of the files, one after another, uint8, and where each ends (n,), int64.
    """

    parents: np.ndarray
    changed: np.ndarray
    folder_names: np.ndarray
    folder_ends: np.ndarray
    folders: np.ndarray
    sizes: np.ndarray
    places: np.ndarray
    names: np.ndarray
    ends: np.ndarray

    def name(self, index: int) -> str:
        """Return the name of a file."""
        return _decoded(self.names[self.ends[index - 1] if index else 0 : self.ends[index]])

    def folder_parts(self) -> list[tuple[str, ...]]:
        """Return the relative path of each folder, as its parts."""
        found: list[tuple[str, ...]] = [()]
        start = int(self.folder_ends[0])
        for parent, end in zip(self.parents[1:].tolist(), self.folder_ends[1:].tolist(), strict=True):
            found.append((*found[parent], _decoded(self.folder_names[start:end])))
            start = end
        return found


class Listing(Sequence[Path]):
    """The files of a folder as paths relative to it, or with `root` as paths below that.

    `chosen` are the indices of those in the columns that it consists of, by default all.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        parts: Sequence[tuple[str, ...]] | None = None,
        root: str = "",
        chosen: np.ndarray | None = None,
    ):
        self.columns, self.root, self.chosen = columns, root, chosen
        self.folder_parts = columns.folder_parts() if parts is None else parts
        """The relative path of each folder, as its parts."""

    def __len__(self) -> int:
        return len(self.columns.folders if self.chosen is None else self.chosen)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Listing: ...
    def __getitem__(self, index: int | slice) -> Path | Listing:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        at = range(len(self))[index]
        at = at if self.chosen is None else int(self.chosen[at])
        return Path(self.root, *self.folder_parts[self.columns.folders[at]], self.columns.name(at))

    @property
    def folders(self) -> np.ndarray:
        """The folder that each file is in (n,), an index into `folder_parts`."""
        return self._of(self.columns.folders)

    @property
    def sizes(self) -> np.ndarray:
        """The bytes of each file (n,)."""
        return self._of(self.columns.sizes)

    @property
    def places(self) -> np.ndarray:
        """A number in [0, 1) for each file (n,) that depends only on its relative path."""
        return self._of(self.columns.places)

    def names_and_sizes(self) -> Iterator[bytes]:
        """Yield lines with the name of a file, without its folders, and its size; many lines at a time."""
        columns = self.columns
        for first in range(0, len(self), _LINES):
            part = slice(first, first + _LINES)
            at = np.arange(len(self))[part] if self.chosen is None else self.chosen[part]
            ends, sizes = columns.ends[at].tolist(), columns.sizes[at].tolist()
            starts = np.where(at > 0, columns.ends[at - 1], 0).tolist()
            low = min(starts)
            text = columns.names[low : max(ends)].tobytes()
            yield b"".join(
                b"%b %d\n" % (text[start - low : end - low], size)
                for start, end, size in zip(starts, ends, sizes, strict=True)
            )

    def select(self, which: np.ndarray) -> Listing:
        """Return the listing of some files, by a mask (n,) or by their indices."""
        indices = np.flatnonzero(which) if which.dtype == bool else which
        chosen = indices if self.chosen is None else self.chosen[indices]
        return Listing(self.columns, parts=self.folder_parts, root=self.root, chosen=chosen)

    def below(self, folder: Path) -> Listing:
        """Return the listing with the files' paths below a folder instead of relative to it."""
        return Listing(self.columns, parts=self.folder_parts, root=str(folder), chosen=self.chosen)

    def _of(self, column: np.ndarray) -> np.ndarray:
        return column if self.chosen is None else column[self.chosen]


class _Names:
    """Names one after another, and where each ends."""

    def __init__(self) -> None:
        self.text, self.ends = bytearray(), array("q")

    def add(self, name: str) -> None:
        self.text += name.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.text))


class _Builder:
    """Columns in the making."""

    def __init__(self) -> None:
        self.parents, self.changed, self.folder_names = array("i"), array("q"), _Names()
        self.folders, self.sizes, self.places, self.names = array("i"), array("q"), array("d"), _Names()

    def folder(self, parent: int, name: str, changed: int) -> int:
        self.parents.append(parent)
        self.changed.append(changed)
        self.folder_names.add(name)
        return len(self.parents) - 1

    def file(self, folder: int, below: str, name: str, size: int) -> None:
        self.folders.append(folder)
        self.sizes.append(size)
        self.places.append(_place(below + name))
        self.names.add(name)

    def columns(self) -> Columns:
        numbers: dict[str, Any] = {
            key: np.frombuffer(column, dtype=column.typecode)
            for key, column in vars(self).items()
            if isinstance(column, array)
        }
        texts = [np.frombuffer(names.text, dtype=np.uint8) for names in (self.folder_names, self.names)]
        ends = [np.frombuffer(names.ends, dtype=np.int64) for names in (self.folder_names, self.names)]
        return Columns(**numbers, folder_names=texts[0], folder_ends=ends[0], names=texts[1], ends=ends[1])


def listed(folder: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> Listing:
    """Return the regular files below a folder whose names are `wanted`, in order of their paths.

    Links are followed, but no folder is read twice, so that circular links end. Hidden files and folders are skipped.

    Raises: DataError if a folder cannot be read.
    """
    made, seen = _Builder(), {os.path.realpath(folder)}
    at = made.folder(-1, "", _changed(folder))
    # Depth first and sorted by name, so that files come in order of their paths, and a folder which links reach in two
    # ways is always reached in the same one.
    walk = [(at, "", _entries(folder))]
    while walk:
        at, below, entries = walk[-1]
        entry = next(entries, None)
        if entry is None:
            walk.pop()
        elif _is_folder(entry):
            real = os.path.realpath(entry.path)
            if real not in seen:
                seen.add(real)
                inner = made.folder(at, entry.name, _changed(entry.path))
                walk.append((inner, f"{below}{entry.name}/", _entries(entry.path)))
        elif wanted(entry.name):
            size = _regular_size(entry)
            if size is not None:
                made.file(at, below, entry.name, size)
    return Listing(made.columns())


def listing_of(paths: Iterable[Path]) -> Listing:
    """Return the listing of given relative paths, in their order; their sizes are taken to be 0."""
    made = _Builder()
    known: dict[tuple[str, ...], int] = {(): made.folder(-1, "", -1)}
    for path in paths:
        *folders, name = path.parts or ("",)
        for depth in range(len(folders)):
            place = tuple(folders[: depth + 1])
            if place not in known:
                known[place] = made.folder(known[place[:-1]], place[-1], -1)
        made.file(known[tuple(folders)], "".join(f"{one}/" for one in folders), name, 0)
    return Listing(made.columns())


def folder_changed_ns(folder: str) -> int:
    """Return when the entries of a folder last changed, in ns. Raises: OSError."""
    return os.stat(folder).st_mtime_ns


def _changed(folder: str | Path) -> int:
    """Return when a folder last changed; -1 if it is so recent that a later change may have the same time."""
    changed = folder_changed_ns(str(folder))
    return changed if time.time_ns() - changed > _SETTLED_NS else -1


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name. Raises: DataError."""
    try:
        with os.scandir(folder) as found:
            return iter(sorted((one for one in found if one.name[0] != "."), key=lambda one: one.name))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Expected a readable folder.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, for example.
        return False


def _regular_size(entry: os.DirEntry[str]) -> int | None:
    """Return the size of a regular file; None for anything else, such as a pipe or a broken link."""
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _place(path: str) -> float:
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _decoded(name: np.ndarray) -> str:
    return name.tobytes().decode("utf-8", "surrogateescape")
