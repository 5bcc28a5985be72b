"""The batches of a run: which examples in which order, fetched, augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vqtk.datasets import Split, batches_of
from vqtk.models import Model
from vqtk.process import generator
from vqtk.recipe.recipe import Recipe


class Batches:
    """The batches of each update from `done` on, in training units on the model's device."""

    def __init__(self, recipe: Recipe, model: Model, data: Split, *, done: int = 0):
        self.device = model.device
        self.normalise = model.data.normalise
        self.batch = recipe.batch
        self.examples_per_update = recipe.examples_per_update
        self.seed, self.done, self.augmentations = recipe.seed, done, recipe.augmentations()
        self._order = Order(len(data), recipe.seed)
        self._raw = batches_of(data.to(self.device), self._indices(done))

    def _indices(self, done: int) -> Iterator[Tensor]:
        while True:
            yield self._order(done * self.examples_per_update, self.examples_per_update)
            done += 1

    def __next__(self) -> list[Tensor]:
        raw = next(self._raw).to(self.device, non_blocking=True)
        for index, augmentation in enumerate(self.augmentations):
            raw = augmentation(raw, generator(self.seed, "augment", self.done, index))
        self.done += 1
        return list(map(self.normalise, raw.split(self.batch)))


class Order:
    """The order of the training examples: another permutation for each epoch.

    An epoch's permutation depends only on the seed and the epoch's number, so a resumed run continues at any position
    without replaying. No example is dropped: batches run across the ends of epochs.
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
