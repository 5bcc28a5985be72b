"""The order of training examples: a function of the seed and the position alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vqtk.process import generator


class Order:
    """The order of the training examples: another permutation for each epoch.

    An epoch's permutation depends only on the seed and the epoch's number, so a resumed run continues at any position
    without replaying. No example is dropped: batches run across the ends of epochs.
    """

    def __init__(self, items: int, seed: int):
        self.items, self.seed = items, seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, start: int, count: int) -> Tensor:
        """Return the indices at positions start … start + count of the endless sequence of epochs."""
        parts = []
        while count:
            epoch, offset = divmod(start, self.items)
            taken = min(count, self.items - offset)
            parts.append(self.within(epoch, offset, taken))
            start, count = start + taken, count - taken
        return torch.cat(parts)

    def within(self, epoch: int, offset: int, count: int) -> Tensor:
        """Return the indices at positions of one epoch."""
        if epoch != self._epoch:
            drawn = torch.randperm(self.items, generator=generator(self.seed, "epoch", epoch))
            self._epoch, self._permutation = epoch, drawn
        return self._permutation[offset : offset + count]


class BlockOrder(Order):
    """The order of training examples that lie in blocks on disk, which are best read whole.

    In each epoch the blocks of `block` consecutive examples come in another order, and the examples of `MIXED` blocks
    at a time are shuffled among each other. What is held in memory is the order of the blocks, and one such window.
    """

    MIXED = 64

    def __init__(self, items: int, seed: int, *, block: int):
        super().__init__(items, seed)
        self.block = block
        self._windows: tuple[Tensor, ...] = ()
        self._ends = torch.empty(0, dtype=torch.int64)
        self._at = (-1, -1)
        self._window = torch.empty(0, dtype=torch.int64)

    def within(self, epoch: int, offset: int, count: int) -> Tensor:
        """Return the indices at positions of one epoch."""
        if epoch != self._epoch:
            blocks = torch.randperm(-(-self.items // self.block), generator=generator(self.seed, "epoch", epoch))
            self._windows, self._epoch = blocks.split(self.MIXED), epoch
            sizes = [int((self._end(window) - window * self.block).sum()) for window in self._windows]
            self._ends = torch.tensor(sizes).cumsum(0)
        parts = []
        while count:
            at = int(torch.searchsorted(self._ends, offset, right=True))
            start = offset - (int(self._ends[at - 1]) if at else 0)
            parts.append(self._mixed(epoch, at)[start : start + count])
            offset, count = offset + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def _end(self, blocks: Tensor) -> Tensor:
        return ((blocks + 1) * self.block).clamp(max=self.items)

    def _mixed(self, epoch: int, window: int) -> Tensor:
        """Return the shuffled examples of a window."""
        if self._at != (epoch, window):
            blocks = self._windows[window]
            indices = torch.cat([torch.arange(int(b) * self.block, int(self._end(b))) for b in blocks])
            drawn = torch.randperm(len(indices), generator=generator(self.seed, "window", epoch, window))
            self._at, self._window = (epoch, window), indices[drawn]
        return self._window
