"""All randomness of a run, derived from its one seed: what is drawn depends on the place, not on the history."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a CPU generator for one place of a run, such as ("epoch", 3)."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Order:
    """The order in which training takes the items: each epoch a permutation of its own.

    Any stretch can be asked for, so a resumed run goes on without replaying; no item is dropped.
    """

    def __init__(self, items: int, seed: int):
        self.items, self.seed = items, seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, start: int, count: int) -> torch.Tensor:
        """Return the indices at positions start … start + count of the endless sequence of epochs."""
        parts = []
        while count:
            epoch, offset = divmod(start, self.items)
            taken = min(count, self.items - offset)
            parts.append(self._of(epoch)[offset : offset + taken])
            start, count = start + taken, count - taken
        return torch.cat(parts)

    def _of(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            drawn = torch.randperm(self.items, generator=generator(self.seed, "epoch", epoch))
            self._epoch, self._permutation = epoch, drawn
        return self._permutation
