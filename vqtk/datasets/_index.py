"""The listing of a large folder, stored in the cache, so that the next start need not list the folder again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._listing import Columns, Listing, folder_changed_ns, listed
from vqtk.datasets._paths import check_regular, derived_cache, shown
from vqtk.datasets._split import Files
from vqtk.errors import DataError
from vqtk.files import replacing

INDEXED_FROM = 10_000
"""The number of files from which a folder has an index; fewer are listed in less than a second."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
KINDS: dict[str, Callable[[str], bool]] = {
    "images": lambda name: os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES,
    "grids": lambda name: name.endswith(".npz"),
}
"""The kinds of files that have indices, and how their names are recognised."""
_FORMAT = "vqtk listing 1"
_TYPES: dict[str, type] = {
    "parents": np.int32, "changed": np.int64, "folder_names": np.uint8, "folder_ends": np.int64, "folders": np.int32,
    "sizes": np.int64, "places": np.float64, "names": np.uint8, "ends": np.int64,
}  # fmt: skip


class ListedFiles(Files):
    """Examples read from the files of a listing, which must have the sizes that it gives."""

    paths: Listing

    def __init__(self, paths: Listing, read: Callable[[Path], Tensor], labels: Tensor | None = None):
        super().__init__(paths, read, labels)

    def check_unchanged(self, index: int) -> None:
        """Raise DataError if a file has another size than in the listing."""
        listing, path = self.paths, self.path(index)
        expected = int(listing.columns.sizes[index if listing.chosen is None else listing.chosen[index]])
        with suppress(OSError):  # What cannot be reached cannot be read either; the reader says why.
            found = path.stat().st_size
            if found != expected:
                raise DataError(
                    f"{shown(path)} has {found:,} bytes, and {expected:,} in the index of its folder: it was changed "
                    f"in place since. List the folder again: vqtk index {shown(Path(listing.root))}"
                )

    def add_to(self, digest: Any) -> None:
        """Add the names and sizes of the files, as listed."""
        for lines in self.paths.names_and_sizes():
            digest.update(lines)


def indexed(folder: Path, kind: str) -> Listing:
    """Return the files of a kind below a folder: from its index if no folder has changed since, otherwise listed.

    The index of a large folder is stored in the cache, if that can be written.

    Raises: DataError if a folder cannot be read.
    """
    found = _opened(folder, kind)
    if found is not None and _is_current(found, folder):
        return found
    listing = listed(folder, wanted=KINDS[kind])
    if len(listing) >= INDEXED_FROM:
        with suppress(OSError, DataError):  # Without an index the next start lists the folder again.
            _store(listing, folder, kind)
    return listing


def indexed_again(folder: Path) -> dict[str, int]:
    """List a folder and replace its indices; return the number of files of each kind that it has.

    Raises: DataError if a folder cannot be read; OSError if the index cannot be written.
    """
    counts = {}
    for kind, wanted in KINDS.items():
        listing = listed(folder, wanted=wanted)
        if listing:
            _store(listing, folder, kind)
            counts[kind] = len(listing)
        else:
            index_path(folder, kind).unlink(missing_ok=True)
    return counts


def index_path(folder: Path, kind: str) -> Path:
    """Return where the index of a folder is stored. Raises: DataError if there is no cache folder."""
    key = f"{os.path.realpath(folder)}\n{kind}".encode("utf-8", "surrogateescape")
    return derived_cache() / "indices" / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"


def _store(listing: Listing, folder: Path, kind: str) -> None:
    write_columns(index_path(folder, kind), vars(listing.columns), _FORMAT)


def _opened(folder: Path, kind: str) -> Listing | None:
    """Return the listing in an index; None if there is none, or it is damaged."""
    with suppress(DataError):
        found = map_columns(index_path(folder, kind), _TYPES, _FORMAT)
        columns = None if found is None else Columns(**found)
        return Listing(columns) if columns is not None and _is_sound(columns) else None
    return None


def write_columns(path: Path, columns: dict[str, np.ndarray], format: str) -> None:
    """Replace a file of columns, with the name of their format and a checksum. Raises: OSError."""
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": format, "sha256": _sha256(columns)})


def map_columns(path: Path, types: dict[str, type], format: str) -> dict[str, np.ndarray] | None:
    """Return the columns in a file, memory-mapped; None if there is no such file, or it is damaged.

    What the columns contain is for the caller to check.

    Raises: DataError if the path is not a regular file.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            columns = {name: file.get_tensor(name).numpy() for name in types}
    except (OSError, SafetensorError, TypeError):
        return None
    sound = all(columns[name].dtype == kind and columns[name].ndim == 1 for name, kind in types.items())
    return columns if sound and facts == {"format": format, "sha256": _sha256(columns)} else None


def _is_sound(columns: Columns) -> bool:
    """Return whether every index and every name is one that a listing can have, so that no path leaves its folder."""
    count, folders = len(columns.folders), len(columns.parents)
    lengths = [len(column) for column in (columns.sizes, columns.places, columns.ends)]
    if lengths != [count] * 3 or [len(columns.changed), len(columns.folder_ends)] != [folders] * 2 or not folders:
        return False
    return bool(
        columns.parents[0] == -1
        and columns.folder_ends[0] == 0
        and ((columns.parents[1:] >= 0) & (columns.parents[1:] < np.arange(1, folders))).all()
        and ((columns.folders >= 0) & (columns.folders < folders)).all()
        and (columns.sizes >= 0).all()
        and _are_names(columns.folder_names, columns.folder_ends[1:])
        and _are_names(columns.names, columns.ends)
    )


def _are_names(text: np.ndarray, ends: np.ndarray) -> bool:
    """Return whether names are not empty, not hidden, such as `..`, and have no separator of folders."""
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])
    if starts[-1] != len(text) or (np.diff(starts) <= 0).any():
        return False
    return not (np.isin(text, (0, ord("/"))).any() or (text[starts[:-1]] == ord(".")).any())


def _is_current(listing: Listing, folder: Path) -> bool:
    """Return whether no folder has gained or lost an entry since it was listed."""
    root = os.path.abspath(folder)
    try:
        return all(
            folder_changed_ns(os.path.join(root, *parts)) == changed
            for parts, changed in zip(listing.folder_parts, listing.columns.changed.tolist(), strict=True)
        )
    except OSError:
        return False


def _sha256(columns: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()
