"""The base class of augmentations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Augmentation(ABC):
    """A random change of training examples that leaves them plausible examples.

    `kinds` are the kinds of data that it changes. The generator is seeded for each update of a run, so that a resumed
    run sees the same examples. What an example becomes depends on its own values and draws alone: each of several
    processes has the values of its own rows only, and zeros in place of the others.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)

    @abstractmethod
    def __call__(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed examples as stored, (n, *shape), of the same type; draw on the CPU, by the generator."""
