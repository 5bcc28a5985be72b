"""Tar files of examples, as WebDataset writes them: packed from a folder, and read in any order by an index."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._index import IMAGE_SUFFIXES, map_columns, write_columns
from vqtk.datasets._paths import because, check_regular, derived_cache, shown
from vqtk.datasets._split import OnDisk
from vqtk.errors import DataError, printable

_EXAMPLE_AT_MOST = 1 << 28
_EXTENSION_AT_MOST = 1 << 20
_LABEL_AT_MOST = 20
_END_AT_MOST = 1 << 20
"""Zeros at the end of an archive, which fill its last record."""
_FORMAT = "vqtk shard 1"
_TYPES: dict[str, type] = {"file": np.int64, "offsets": np.int64, "sizes": np.int64, "labels": np.int64}
_AHEAD_AT_MOST = 256


@dataclass(frozen=True)
class Shard:
    """The examples of a tar file: where the bytes of each begin, how many there are, and its label, -1 without (n,)."""

    path: Path
    bytes: int
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


class ShardedExamples(OnDisk):
    """Images in shards, read when needed, in training by worker processes.

    Examples that are near each other lie near each other on disk: the first of a block to be read has the system read
    the others ahead, one after another.
    """

    def __init__(self, shards: list[Shard], read: Callable[[bytes, str], Tensor], *, block: int):
        lengths = [len(shard.sizes) for shard in shards]
        labels = np.concatenate([shard.labels for shard in shards])
        super().__init__(torch.from_numpy(labels) if (labels >= 0).all() else None)
        self.shards, self.decode, self.block = shards, read, block
        self.ends = np.cumsum(lengths)
        self._ahead: deque[int] = deque(maxlen=_AHEAD_AT_MOST)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def path(self, index: int) -> Path:
        """Return the shard that holds an example."""
        return self._place(index)[0].path

    def name(self, index: int) -> str:
        """Return the name of an example, for messages."""
        shard, row = self._place(index)
        return f"{shown(shard.path)}, example {row}"

    def example(self, index: int) -> Tensor:
        """Return one example (*shape). Raises: DataError if it is damaged."""
        shard, row = self._place(index)
        try:
            with shard.path.open("rb", buffering=0) as file:
                self._read_ahead(file.fileno(), index, shard, row)
                file.seek(int(shard.offsets[row]))
                content = file.read(int(shard.sizes[row]))
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read ({because(error)}).") from None
        return self.decode(content, self.name(index))

    def check_unchanged(self, index: int) -> None:
        """Raise DataError if a shard has another size than when it was indexed."""
        shard = self._place(index)[0]
        with suppress(OSError):  # What cannot be reached cannot be read either; the reader says why.
            if shard.path.stat().st_size != shard.bytes:
                raise DataError(f"{shown(shard.path)} has changed since the run was started. Restore it.")

    def add_to(self, digest: Any) -> None:
        """Add the names and sizes of the shards and the sizes and labels of the examples."""
        for shard in self.shards:
            digest.update(f"{shard.path.name} {shard.bytes}\n".encode("utf-8", "surrogateescape"))
            digest.update(np.ascontiguousarray(shard.sizes).data)
            digest.update(np.ascontiguousarray(shard.labels).data)

    def _place(self, index: int) -> tuple[Shard, int]:
        at = int(np.searchsorted(self.ends, index, side="right"))
        return self.shards[at], index - (int(self.ends[at - 1]) if at else 0)

    def _read_ahead(self, file: int, index: int, shard: Shard, row: int) -> None:
        """Have the system read the block of an example, as far as it lies in this shard, unless it was just read."""
        block = index // self.block
        if block in self._ahead or not hasattr(os, "posix_fadvise"):
            return
        self._ahead.append(block)
        first = max(0, row - index % self.block)
        last = min(len(shard.sizes), row - index % self.block + self.block) - 1
        start, end = int(shard.offsets[first]), int(shard.offsets[last] + shard.sizes[last])
        os.posix_fadvise(file, start, end - start, os.POSIX_FADV_WILLNEED)


def read_shard(path: Path) -> Shard:
    """Return the examples of a shard, from its index in the cache, or by reading its headers if that is out of date.

    Raises: DataError if it is not a complete tar file, or an example in it has two images or another kind of label.
    """
    check_regular(path)
    try:
        found = path.stat()
        file = np.array([found.st_size, found.st_mtime_ns])
        stored = _index_of(path)
        columns = None if stored is None else map_columns(stored, _TYPES, _FORMAT)
        if columns is None or not np.array_equal(columns["file"], file) or not _is_sound(columns):
            columns = {"file": file, **_scanned(path)}
            with suppress(OSError):  # Without an index the next start reads the headers again.
                if stored is not None:
                    write_columns(stored, columns, _FORMAT)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(
            f"{shown(path)} cannot be read as a shard ({because(error)}). Expected a tar file, not compressed, in "
            "which each example is an image and, optionally, a file .cls with a whole number. Write it again."
        ) from None
    return Shard(path, found.st_size, columns["offsets"], columns["sizes"], columns["labels"])


def _index_of(path: Path) -> Path | None:
    """Return where the index of a shard is stored; None if there is no cache folder."""
    key = f"{os.path.realpath(path)}\nshard".encode("utf-8", "surrogateescape")
    try:
        return derived_cache() / "indices" / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"
    except DataError:
        return None


def _is_sound(columns: dict[str, np.ndarray]) -> bool:
    """Return whether the examples lie within the shard, and have a size that is read."""
    offsets, sizes, labels = (columns[name] for name in ("offsets", "sizes", "labels"))
    if not len(offsets) == len(sizes) == len(labels):
        return False
    within = (offsets >= 0) & (sizes >= 0) & (sizes <= _EXAMPLE_AT_MOST) & (offsets <= columns["file"][0] - sizes)
    return bool(within.all() and (labels >= -1).all())


class _Bounded(tarfile.TarInfo):
    """A header that is refused if it claims a long extension, which would be read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Bounded:
        """Return the header in a block. Raises: TarError."""
        found = super().frombuf(buf, encoding, errors)
        if not found.isreg() and found.size > _EXTENSION_AT_MOST:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes; at most {_EXTENSION_AT_MOST:,} are read")
        return found


def _scanned(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a shard from its headers. Raises: OSError, TarError, ValueError."""
    rows: list[tuple[int, int, int]] = []
    last, image, label = "", None, -1
    with tarfile.open(path, "r:", tarinfo=_Bounded) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # It keeps all of them.
            if not member.isreg() or member.issparse():
                continue
            folder, name = os.path.split(member.name)
            stem, _, kind = name.partition(".")
            key = f"{folder}/{stem}"
            if key != last and image is not None:
                rows.append((*image, label))
            if key != last:
                last, image, label = key, None, -1
            if f".{kind.lower()}" in IMAGE_SUFFIXES:
                image = _claimed(member, image is not None)
            elif kind == "cls":
                label = _label(tar, member)
        _check_end(path, tar.offset)
    if image is not None:
        rows.append((*image, label))
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), 3).T.copy()
    return dict(zip(("offsets", "sizes", "labels"), columns, strict=True))


def _check_end(path: Path, offset: int) -> None:
    """Raise ValueError if an archive does not end properly after its last member: the library does not mind."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(_END_AT_MOST + 1)
    if not tarfile.BLOCKSIZE <= len(rest) <= _END_AT_MOST or any(rest):
        raise ValueError(f"it is cut off or damaged at byte {offset:,}")


def _claimed(member: tarfile.TarInfo, another: bool) -> tuple[int, int]:
    """Return where an image begins and its size. Raises: ValueError if it is too large, or not the only one."""
    name = printable(member.name[:80])
    if another:
        raise ValueError(f"{name} is the second image of its example")
    if member.size > _EXAMPLE_AT_MOST:
        raise ValueError(f"{name} has {member.size:,} bytes; at most {_EXAMPLE_AT_MOST:,} are read")
    return member.offset_data, member.size


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    """Return the label in a file .cls. Raises: ValueError."""
    file = tar.extractfile(member) if member.size <= _LABEL_AT_MOST else None
    text = b"" if file is None else file.read().strip()
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise ValueError(f"{printable(member.name[:80])} is not a whole number")
    return int(text)
