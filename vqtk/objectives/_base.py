"""What every objective is: a pass over a batch, its loss, and what it measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.nn.stage import State

Load = Callable[[str], Any]
"""Returns the trained model that a run directory, a weights file or a shipped model's name stands for."""


@dataclass(frozen=True)
class Pass:
    """What one pass over a batch leaves behind.

    `loss` is the scalar to minimise, `terms` the scalars to report, each a mean over the batch; `codes` (n, s) are the
    options that the code's usage is counted by.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    codes: Tensor


class Objective(ABC):
    """What training minimises, for one model."""

    @property
    def explores(self) -> bool:
        """Whether `draw` draws anything; where it does not, training does not call it."""
        return type(self).draw is not Objective.draw

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> State:
        """Return what a pass over n examples draws at random, a pytree of tensors (n, …) on the CPU, or None.

        Pieces of a batch get their part of it. `progress` is the part of the training that is done, from 0 to 1.
        """
        return None

    @abstractmethod
    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Pass over a batch.

        Arguments:
            batch: (n, *data shape) in training units.
            draws: what `draw` gave for these examples, on the model's device.
            recompute: of how many stages, the first ones, activations are computed again in the backward pass.
        """

    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return what is to be known of test items besides distortion and code usage; targets() → (n, *data shape)."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what the manifest should record of it."""
        return {}
