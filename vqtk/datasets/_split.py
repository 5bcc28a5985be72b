"""Items of a data set, taken by index: held in memory, or read by worker processes as they are needed."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vqtk.datasets._paths import shown
from vqtk.errors import DataError

HELD_AT_MOST = 1 << 30
"""Bytes up to which the items of a data set are held in memory."""
DAMAGED_AT_MOST = 0.1
"""The share of a set's files that may be damaged; they are skipped. More is taken for a mistake."""
WORKERS = min(4, os.cpu_count() or 1)


class Split(ABC):
    """Items of a data set as stored, uint8 for images; `labels` (n,) where there are any.

    `workers` processes read them during training; 0 where they are held in memory. `skipped` names those that
    were found damaged and left out.
    """

    labels: Tensor | None = None
    workers: int = 0

    def __init__(self, labels: Tensor | None = None, *, skipped: Sequence[str] = ()):
        self.labels = labels
        self.skipped = list(skipped)

    @abstractmethod
    def __len__(self) -> int:
        """Return how many items there are."""

    @abstractmethod
    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return items by their indices (n,) → (n, *shape). Raises: DataError."""

    @abstractmethod
    def add_to(self, digest: Any) -> None:
        """Add what the items are to a hash."""

    def to(self, device: torch.device) -> Split:
        """Return the split on a device, if it can be held there."""
        return self


class Held(Split):
    """Items held in memory: (n, *shape)."""

    def __init__(self, items: Tensor, labels: Tensor | None = None, *, skipped: Sequence[str] = ()):
        super().__init__(labels, skipped=skipped)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.items[indices.to(self.items.device)]

    def add_to(self, digest: Any) -> None:
        """Add the items' bytes."""
        digest.update(np.ascontiguousarray(self.items.cpu().numpy()).data)

    def to(self, device: torch.device) -> Held:
        """Return the split on a device."""
        return Held(self.items.to(device), self.labels, skipped=self.skipped)


class HeldBits(Split):
    """Binary items held in memory, eight values a byte: `packed` (n, bytes) as `numpy.packbits` makes them."""

    def __init__(
        self, packed: np.ndarray, shape: tuple[int, ...], labels: Tensor | None = None, *, skipped: Sequence[str] = ()
    ):
        super().__init__(labels, skipped=skipped)
        self.packed, self.shape = packed, shape

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, indices: Tensor) -> Tensor:
        values = np.unpackbits(self.packed[indices.cpu().numpy()], axis=1, count=int(np.prod(self.shape)))
        return torch.from_numpy(values).view(len(indices), *self.shape)

    def add_to(self, digest: Any) -> None:
        """Add the packed bytes."""
        digest.update(np.ascontiguousarray(self.packed).data)


class Windows(Split):
    """Windows of a sequence of tokens (t,): `length` of them from every `stride`-th on."""

    def __init__(self, tokens: Tensor, *, length: int, stride: int):
        super().__init__()
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.stride + 1)

    def __getitem__(self, indices: Tensor) -> Tensor:
        start = indices.to(self.tokens.device) * self.stride
        return self.tokens[start[:, None] + torch.arange(self.length, device=start.device)]

    def add_to(self, digest: Any) -> None:
        """Add the tokens' bytes."""
        digest.update(self.tokens.cpu().numpy().data)

    def to(self, device: torch.device) -> Windows:
        """Return the split on a device."""
        return Windows(self.tokens.to(device), length=self.length, stride=self.stride)


class Files(Split):
    """Items read from their files when they are needed, by worker processes in training.

    A damaged file is skipped: the next whole one takes its place, and its name goes to `skipped`. One that has gone is
    not: the data would be others than those that training began with.
    """

    workers = WORKERS

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Tensor], labels: Tensor | None = None):
        super().__init__(labels)
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self._whole(index) for index in indices.tolist()])

    def _whole(self, index: int) -> Tensor:
        for step in range(len(self.paths)):
            path = self.paths[(index + step) % len(self.paths)]
            try:
                return self.read(path)
            except DataError:
                if not path.exists():
                    raise DataError(
                        f"{path}: this file was there when training began, and is gone. Put it back, to go on with "
                        "the same data."
                    ) from None
                if shown(path) not in self.skipped:
                    self.skipped.append(shown(path))
        raise DataError(f"none of the {len(self.paths)} files, such as {self.paths[0]}, can be read.")

    def add_to(self, digest: Any) -> None:
        """Add the files' names and sizes; their content would take as long to read as an epoch."""
        for path in self.paths:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode("utf-8", "surrogateescape"))


class _Fetched(TorchDataset):
    """A split as a worker process serves it: items, or why there are none, and the names that it has skipped so far."""

    def __init__(self, split: Split):
        self.split = split

    def __getitem__(self, indices: Tensor) -> tuple[Tensor | str, list[str]]:
        try:
            return self.split[indices], self.split.skipped
        except DataError as error:  # Raised here, it would come with this process's traceback as its text.
            return str(error), self.split.skipped


def batches_of(split: Split, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the items of each batch of indices, read ahead by workers where the split has any.

    What workers skip is added to the split's `skipped`.
    """
    if not split.workers:
        yield from (split[batch] for batch in indices)
        return
    loader = DataLoader(
        _Fetched(split),
        batch_size=None,
        sampler=indices,
        num_workers=split.workers,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    for items, skipped in loader:
        split.skipped += [name for name in skipped if name not in split.skipped]
        if isinstance(items, str):
            raise DataError(items)
        yield items


def sha256(*splits: Split) -> str:
    """Return a hash of what the splits hold."""
    digest = hashlib.sha256()
    for split in splits:
        split.add_to(digest)
    return digest.hexdigest()
