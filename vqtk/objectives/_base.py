"""What every objective is: a pass over a batch, its loss, and what it measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Load = Callable[[str], Any]
"""Returns the trained model that a run directory, a weights file or a shipped model's name stands for."""


@dataclass(frozen=True)
class Pass:
    """What one pass over a batch leaves behind.

    `loss` is the scalar to minimise, `terms` the scalars to report, each a mean over the batch; `usage` (s, k)
    counts how often each option was chosen.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    usage: Tensor


class Objective(ABC):
    """What training minimises, for one model."""

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what a pass over n items draws at random (n, …), or None; pieces of a batch get their part of it.

        `progress` is the part of the training that is done, from 0 to 1.
        """
        return None

    @abstractmethod
    def __call__(self, batch: Tensor, *, draws: Tensor | None, checkpoint: bool) -> Pass:
        """Pass over a batch (n, *data shape) in training units; with `checkpoint` activations are recomputed."""

    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return what is to be known of test items besides distortion and code usage; targets() → (n, *data shape)."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what the manifest should record of it."""
        return {}
