"""Splits of a data set: examples by index, held in memory or read by workers when needed."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vqtk.datasets._order import BlockOrder, Order
from vqtk.datasets._paths import shown
from vqtk.errors import DataError
from vqtk.process import generator

HELD_AT_MOST = 1 << 30
"""The most bytes of a data set that are held in memory."""
DAMAGED_AT_MOST = 0.1
"""The largest fraction of damaged files, which are skipped; more than that is treated as a mistake."""
WORKERS = min(4, os.cpu_count() or 1)


class Split(ABC):
    """Examples of a data set as stored, uint8 for images, with `labels` (n,) if there are any.

    During training `workers` processes read them; 0 if they are held in memory. `skipped` names the damaged ones that
    were left out.
    """

    labels: Tensor | None = None
    workers: int = 0
    block: int = 0
    """How many consecutive examples are read from disk at once, if training is to keep them near each other; or 0."""
    together: int = 1
    """How many consecutive examples show one thing, such as rotations of a mesh: they are held out together."""

    def __init__(self, labels: Tensor | None = None, *, skipped: Sequence[str] = ()):
        self.labels = labels
        self.skipped = list(skipped)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def examples(self, indices: Tensor) -> Tensor:
        """Return examples by their indices (n,) from 0 → (n, *shape). Raises: DataError."""

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Return one example (*shape) by a number, or several (n, *shape) by a slice, a list or a tensor.

        Raises: DataError if one cannot be read, IndexError if there is no such example.
        """
        if isinstance(index, Tensor) and index.dtype != torch.bool and index.dim() == 1:
            return self.examples(index)
        chosen = torch.arange(len(self))[index]
        return self.examples(chosen) if chosen.dim() else self.examples(chosen[None])[0]

    def __repr__(self) -> str:
        return f"<{len(self):,} examples{'' if self.labels is None else ' with labels'}>"

    @abstractmethod
    def add_to(self, digest: Any) -> None:
        """Add the examples to a hash."""

    def to(self, device: torch.device) -> Split:
        """Return the split on a device; unchanged if it cannot be held there."""
        return self

    def order(self, seed: int) -> Order:
        """Return the order in which a run with this seed trains on the examples."""
        return BlockOrder(len(self), seed, block=self.block) if self.block else Order(len(self), seed)

    def divided(self, count: int) -> tuple[Split, Split]:
        """Return the split without about `count` examples, and these, drawn with a fixed seed.

        They do not depend on the seed of a run: a run that starts from the weights of another, or learns from it, holds
        out the same ones.
        """
        groups = -(-len(self) // self.together)
        order = torch.randperm(groups, generator=generator(0, "validation"))
        held = torch.zeros(groups, dtype=torch.bool)
        held[order[: -(-count // self.together)]] = True
        which = held.repeat_interleave(self.together)[: len(self)]
        return Part(self, (~which).nonzero()[:, 0]), Part(self, which.nonzero()[:, 0])


class Part(Split):
    """Some examples of another split, by their indices (n,)."""

    def __init__(self, whole: Split, indices: Tensor):
        super().__init__(None if whole.labels is None else whole.labels[indices])
        self.whole, self.indices, self.workers, self.block = whole, indices, whole.workers, whole.block
        self.skipped = whole.skipped  # The same list: what is skipped later is known to both.

    def __len__(self) -> int:
        return len(self.indices)

    def examples(self, indices: Tensor) -> Tensor:
        """Return examples by their indices in the part."""
        return self.whole[self.indices[indices.cpu()]]

    def add_to(self, digest: Any) -> None:
        """Add the examples of the whole split, and the indices."""
        self.whole.add_to(digest)
        digest.update(self.indices.numpy().tobytes())

    def to(self, device: torch.device) -> Split:
        """Return the part of the split on a device."""
        return Part(self.whole.to(device), self.indices)


class Held(Split):
    """Examples held in memory: (n, *shape)."""

    def __init__(self, items: Tensor, labels: Tensor | None = None, *, skipped: Sequence[str] = ()):
        super().__init__(labels, skipped=skipped)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def examples(self, indices: Tensor) -> Tensor:
        """Return examples by their indices."""
        return self.items[indices.to(self.items.device)]

    def add_to(self, digest: Any) -> None:
        """Add the bytes of the examples."""
        digest.update(np.ascontiguousarray(self.items.cpu().numpy()).data)

    def to(self, device: torch.device) -> Held:
        """Return the split on a device."""
        return Held(self.items.to(device), self.labels, skipped=self.skipped)


class HeldBits(Split):
    """Binary examples held in memory, eight values in a byte: `packed` (n, bytes) by `numpy.packbits`."""

    def __init__(
        self, packed: np.ndarray, shape: tuple[int, ...], labels: Tensor | None = None, *, skipped: Sequence[str] = ()
    ):
        super().__init__(labels, skipped=skipped)
        self.packed, self.shape = packed, shape

    def __len__(self) -> int:
        return len(self.packed)

    def examples(self, indices: Tensor) -> Tensor:
        """Return examples by their indices, unpacked."""
        values = np.unpackbits(self.packed[indices.cpu().numpy()], axis=1, count=int(np.prod(self.shape)))
        return torch.from_numpy(values).view(len(indices), *self.shape)

    def add_to(self, digest: Any) -> None:
        """Add the packed bytes."""
        digest.update(np.ascontiguousarray(self.packed).data)


class Windows(Split):
    """Windows of a sequence of tokens (t,): `length` tokens from every `stride`-th one on."""

    def __init__(self, tokens: Tensor, *, length: int, stride: int):
        super().__init__()
        self.tokens, self.length, self.stride = tokens, length, stride

    def divided(self, count: int) -> tuple[Split, Split]:
        """Return the windows without the end of the tokens, and `count` windows of the end that do not overlap.

        Windows drawn at random would overlap those to train on.

        Raises: DataError if too little is left to train on.
        """
        left = len(self.tokens) - count * self.length
        if left < self.length:
            most = len(self.tokens) // self.length - 1
            raise DataError(f"data.validation is {count:,} windows of text; at most {most:,} can be held out.")
        train = Windows(self.tokens[:left], length=self.length, stride=self.stride)
        return train, Windows(self.tokens[left:], length=self.length, stride=self.length)

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.stride + 1)

    def examples(self, indices: Tensor) -> Tensor:
        """Return windows by their indices."""
        start = indices.to(self.tokens.device) * self.stride
        return self.tokens[start[:, None] + torch.arange(self.length, device=start.device)]

    def add_to(self, digest: Any) -> None:
        """Add the bytes of the tokens."""
        digest.update(self.tokens.cpu().numpy().data)

    def to(self, device: torch.device) -> Windows:
        """Return the split on a device."""
        return Windows(self.tokens.to(device), length=self.length, stride=self.stride)


class OnDisk(Split):
    """Examples read from disk when needed, by worker processes during training.

    A damaged example is replaced by the next intact one, and its name is added to `skipped`. A missing file is an
    error, because the data would not be those that the training started with.
    """

    workers = WORKERS

    @abstractmethod
    def path(self, index: int) -> Path:
        """Return the file that holds an example."""

    @abstractmethod
    def example(self, index: int) -> Tensor:
        """Return one example (*shape). Raises: DataError if it is damaged."""

    def name(self, index: int) -> str:
        """Return the name of an example, for messages."""
        return shown(self.path(index))

    def check_unchanged(self, index: int) -> None:
        """Raise DataError if the file of an example is known to have changed; here none is known to have."""

    def examples(self, indices: Tensor) -> Tensor:
        """Read examples by their indices; a damaged one is replaced by the next intact one."""
        return torch.stack([self._intact(index) for index in indices.tolist()])

    def _intact(self, index: int) -> Tensor:
        for step in range(len(self)):
            at = (index + step) % len(self)
            self.check_unchanged(at)
            try:
                return self.example(at)
            except DataError:
                path, name = self.path(at), self.name(at)
                if not path.exists():
                    raise DataError(
                        f"{path}: this file existed when training started, and is gone. Restore it, to continue with "
                        "the same data."
                    ) from None
                if name not in self.skipped:
                    self.skipped.append(name)
        raise DataError(f"none of the {len(self)} files, such as {self.name(0)}, can be read. Restore them.")


class Files(OnDisk):
    """Examples read from one file each."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Tensor], labels: Tensor | None = None):
        super().__init__(labels)
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Return the file that holds an example."""
        return self.paths[index]

    def example(self, index: int) -> Tensor:
        """Return one example (*shape). Raises: DataError if it is damaged."""
        return self.read(self.paths[index])

    def add_to(self, digest: Any) -> None:
        """Add the names and sizes of the files; reading their contents would take as long as an epoch."""
        for path in self.paths:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode("utf-8", "surrogateescape"))


class _Fetched(TorchDataset):
    """A split in a worker process: it returns examples or an error's text, and the names skipped so far."""

    def __init__(self, split: Split):
        self.split = split

    def __getitem__(self, indices: Tensor) -> tuple[Tensor | str, list[str]]:
        try:
            return self.split[indices], self.split.skipped
        except DataError as error:  # If it were raised here, its text would become this process's traceback.
            return str(error), self.split.skipped


def batches_of(split: Split, indices: Iterable[Tensor]) -> Generator[Tensor, None, None]:
    """Yield the examples of each batch of indices, read ahead by workers if the split has any; to close it ends them.

    The names that workers skip are added to the split's `skipped`.
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
    for examples, skipped in loader:
        split.skipped += [name for name in skipped if name not in split.skipped]
        if isinstance(examples, str):
            raise DataError(examples)
        yield examples


def sha256(*splits: Split) -> str:
    """Return the SHA-256 of the examples of some splits."""
    digest = hashlib.sha256()
    for split in splits:
        split.add_to(digest)
    return digest.hexdigest()
