"""Vectors in memory-mapped files: .fvecs, .bvecs and .npy, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._paths import because, check_regular
from vqtk.datasets._split import HELD_AT_MOST, Held, Split
from vqtk.datasets._stored import map_array
from vqtk.errors import DataError

FORMATS = {".fvecs": "<f4", ".bvecs": "u1", ".npy": ""}
"""The endings of files of vectors; in the first two each vector follows its length, an int32, as values of this type.

Source: Jégou et al., the corpus-texmex collection, http://corpus-texmex.irisa.fr.
"""
_BLOCK = 1 << 22
"""Values that are read at a time when a whole file is."""
_HASHED_ROWS = 1 << 16


class Mapped(Split):
    """Rows of a memory-mapped array, in training units (x - mean) / std; `chosen` are their indices, by default all.

    Only the examples that are asked for are read. A split that is small enough is held in memory during training.

    Shapes: rows (n, d), mean (d,), examples (d,).
    """

    def __init__(self, rows: np.ndarray, mean: np.ndarray, std: float, *, chosen: np.ndarray | None = None):
        super().__init__()
        self.rows, self.mean, self.std, self.chosen = rows, mean, std, chosen

    def __len__(self) -> int:
        return len(self.rows if self.chosen is None else self.chosen)

    def examples(self, indices: Tensor) -> Tensor:
        """Read vectors by their indices, in training units."""
        places = indices.cpu().numpy()
        read = np.asarray(self.rows[places if self.chosen is None else self.chosen[places]], dtype=np.float32)
        return torch.from_numpy((read - self.mean) / np.float32(self.std))

    def add_to(self, digest: Any) -> None:
        """Add the units and the stored values; of more than a gigabyte, the shape and rows at equal distances."""
        digest.update(f"{len(self)} {self.rows.shape[1]} {self.rows.dtype.str} {self.std!r}".encode())
        digest.update(self.mean.tobytes())
        most = len(self) if self.rows.itemsize * self.rows.shape[1] * len(self) <= HELD_AT_MOST else _HASHED_ROWS
        for places in np.array_split(np.linspace(0, len(self) - 1, most).astype(np.int64), max(1, most // 4096)):
            read = self.rows[places if self.chosen is None else self.chosen[places]]
            digest.update(np.ascontiguousarray(read).data)

    def to(self, device: torch.device) -> Split:
        """Return the split in memory on a device; unchanged if it is too large."""
        if 4 * self.rows.shape[1] * len(self) > HELD_AT_MOST:
            return self
        return Held(self[torch.arange(len(self))].to(device))


def map_vectors(path: Path, values: int) -> np.ndarray:
    """Return the vectors of a file (n, values), memory-mapped, without reading them all.

    Raises: DataError if the file is damaged, or its vectors have another length.
    """
    try:
        check_regular(path)
        rows = map_array(path) if path.suffix == ".npy" else _map_vecs(path, FORMATS[path.suffix])
    except DataError:
        raise
    except Exception as error:  # What NumPy raises depends on how the file is damaged.
        reason = str(error) if type(error) is ValueError else because(error)
        raise DataError(f"{path}: {' '.join(reason.split())}. Copy or write the file again.") from None
    if rows.ndim != 2 or rows.dtype.kind not in "uif":
        raise DataError(
            f"{path}: its array is {rows.dtype} of shape {rows.shape}. Expected numbers of shape (n, {values}), a "
            "vector in each row."
        )
    if rows.shape[1] != values:
        raise DataError(
            f"{path}: its vectors have {rows.shape[1]:,} values, and data.values is {values:,}. Set data.values to "
            f"{rows.shape[1]}, or give other files."
        )
    if not len(rows):
        raise DataError(f"{path} holds no vectors. Expected at least one.")
    return rows


def moments_of(path: Path, rows: np.ndarray, chosen: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Return the mean of vectors (d,), and the std of all their values around it; every value is read and checked.

    `chosen` are the indices of the vectors that the moments are of, by default all.

    Raises: DataError if a value is not a finite number.
    """
    used = np.ones(len(rows), dtype=bool) if chosen is None else np.isin(np.arange(len(rows)), chosen)
    total, squares = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for start, block in _blocks(rows):
        finite = np.isfinite(block).all(1)
        if not finite.all():
            raise DataError(
                f"{path}: vector {start + int((~finite).argmax()):,} of {len(rows):,} has a value that is not a finite "
                "number. Remove or correct such vectors."
            )
        kept = block[used[start : start + len(block)]]
        total += kept.sum(0)
        squares += np.square(kept).sum(0)
    mean = total / used.sum()
    variance = float(np.maximum(squares / used.sum() - mean**2, 0).mean())
    return mean.astype(np.float32), variance**0.5 if variance > 0 else 1.0


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    size = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), size):
        yield start, np.asarray(rows[start : start + size], dtype=np.float64)


def _map_vecs(path: Path, dtype: str) -> np.ndarray:
    """Return the vectors of a .fvecs or .bvecs file. Raises: ValueError, OSError."""
    size = path.stat().st_size
    head = np.fromfile(path, dtype="<i4", count=1)
    length = int(head[0]) if len(head) else 0
    if length < 1:
        raise ValueError(
            f"it has {size:,} bytes and does not begin with the length of a vector, an int32 of at least 1"
        )
    row = np.dtype([("length", "<i4"), ("values", dtype, (length,))])
    if size % row.itemsize:
        raise ValueError(
            f"it has {size:,} bytes, and vectors of {length:,} values take {row.itemsize:,} each, so that the last one "
            "is incomplete"
        )
    stored = np.memmap(path, dtype=row, mode="r")
    odd: Sequence[bool] = stored["length"] != length
    if np.any(odd):
        first = int(np.argmax(odd))
        raise ValueError(f"vector {first:,} has length {int(stored['length'][first])}, and those before it {length:,}")
    return stored["values"]
