"""The batches of updates, and the passes over them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vqtk.augmentations import Augmentation
from vqtk.datasets import Split, batches_of
from vqtk.models import Model
from vqtk.objectives import Pass
from vqtk.process import generator
from vqtk.recipe.recipe import Recipe
from vqtk.training.distributed import Processes


class Batches:
    """Iterates over updates from `done` on: `next` returns the batches of one, augmented and in training units.

    With several processes, each gets its rows of every batch. All are on the model's device.
    """

    def __init__(self, recipe: Recipe, model: Model, data: Split, *, done: int = 0, processes: Processes | None = None):
        self.device = model.device
        self.normalise = model.data.normalise
        self.batch = recipe.batch
        self.examples_per_update = recipe.examples_per_update
        self.seed, self.done, self.augmentations = recipe.seed, done, recipe.augmentations()
        self.processes = processes or Processes()
        self.rows = self.processes.rows(self.batch)
        self._order = data.order(recipe.seed)
        self._raw = batches_of(data.to(self.device), self._indices(done))

    def __next__(self) -> list[Tensor]:
        raw = next(self._raw).to(self.device, non_blocking=True)
        for index, augmentation in enumerate(self.augmentations):
            raw = self._augmented(augmentation, raw, generator(self.seed, "augment", self.done, index))
        self.done += 1
        return list(map(self.normalise, raw.split(self.batch // self.processes.size)))

    def close(self) -> None:
        """End the workers, if there are any. Left to garbage collection, each of them takes five seconds to end."""
        self._raw.close()

    def _indices(self, done: int) -> Iterator[Tensor]:
        while True:
            indices = self._order(done * self.examples_per_update, self.examples_per_update)
            yield indices.view(-1, self.batch)[:, self.rows].flatten()
            done += 1

    def _augmented(self, augmentation: Augmentation, raw: Tensor, drawn_by: torch.Generator) -> Tensor:
        """Augment the rows of this process. Augmentations draw for all rows of an update, so the others are zeros."""
        if self.processes.size == 1:
            return augmentation(raw, drawn_by)
        whole = raw.new_zeros(self.examples_per_update, *raw.shape[1:])
        whole.unflatten(0, (-1, self.batch))[:, self.rows] = raw.unflatten(0, (-1, self.batch // self.processes.size))
        return augmentation(whole, drawn_by).unflatten(0, (-1, self.batch))[:, self.rows].flatten(0, 1)


class Passes:
    """The passes of one update over this process's rows, by batch; each with its piece's share of the whole batch."""

    def __init__(self, processes: Processes):
        self.processes = processes
        self._batches: list[list[tuple[float, Pass]]] = []

    def __bool__(self) -> bool:
        return bool(self._batches)

    def begin_batch(self) -> None:
        """Start the next batch: the passes added from here on are over its pieces."""
        self._batches.append([])

    def add(self, share: float, passed: Pass) -> None:
        """Add the pass over a piece, which is `share` of the batch of all processes."""
        self._batches[-1].append((share, passed))

    @property
    def names(self) -> list[str]:
        """The names of the loss terms."""
        return list(self._batches[0][0][1].terms)

    def own(self) -> list[Pass]:
        """Return the passes over the pieces."""
        return [passed for pieces in self._batches for _, passed in pieces]

    def codes(self) -> Tensor:
        """Return the codes of the update's examples: (n, s)."""
        return torch.cat([passed.codes for passed in self.own()])

    def terms(self) -> Tensor:
        """Return the loss terms of each batch: (batches, names). Summed over all processes, they are means."""
        return torch.stack([_sum_of_shares(pieces)[1:] for pieces in self._batches])

    def whole(self) -> list[Pass]:
        """Return a pass over each whole batch of all processes, which call this together."""
        return [self._whole(pieces) for pieces in self._batches]

    def _whole(self, pieces: list[tuple[float, Pass]]) -> Pass:
        encoded = [passed.encoded for _, passed in pieces if passed.encoded is not None]
        loss, *terms = self.processes.total(_sum_of_shares(pieces))
        codes = self.processes.gathered(torch.cat([passed.codes for _, passed in pieces]))
        vectors = self.processes.gathered(torch.cat(encoded)) if encoded else None
        return Pass(loss, dict(zip(self.names, terms, strict=True)), codes, vectors)


def _sum_of_shares(pieces: list[tuple[float, Pass]]) -> Tensor:
    """Return the loss and the terms of a batch, summed over these pieces by their shares: (1 + names,)."""
    return torch.stack([share * torch.stack([passed.loss, *passed.terms.values()]) for share, passed in pieces]).sum(0)
