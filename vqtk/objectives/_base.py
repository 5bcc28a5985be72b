"""The base class of objectives: a pass over a batch, its loss, and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.nn.stage import State

Load = Callable[[str], Any]
"""Returns the trained model of a run directory, a weights file or a shipped model's name."""


@dataclass(frozen=True)
class Pass:
    """The result of one pass over a batch.

    `loss` is the scalar to minimise, `terms` are the scalars to log, each a mean over the batch, and `codes` (n, s) are
    the options from which code usage is counted. `encoded` is what the objective reads after the update, if anything:
    a tensor without a gradient, with the examples of the batch along its first axis.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    codes: Tensor
    encoded: Tensor | None = None


class Objective(ABC):
    """What training minimises, for one model."""

    @property
    def explores(self) -> bool:
        """Whether `draw` draws anything; if not, training does not call it."""
        return type(self).draw is not Objective.draw

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> State:
        """Return the random draws of a pass over n examples, a pytree of tensors (n, …) on the CPU, or None.

        Each piece of a batch receives its rows. `progress` is the fraction of the training that is done, from 0 to 1.
        """
        return None

    def prepare(self, batch: Tensor, draws: State) -> State:
        """Return the draws for a pass over a batch, with what else the pass takes: what a search finds, for example.

        It is called without gradient, and is not captured in a graph, so it may branch on values.
        """
        return draws

    @abstractmethod
    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Pass over a batch.

        Arguments:
            batch: (n, *data shape) in training units.
            draws: what `prepare` returned for these examples, on the model's device.
            recompute: for how many of the first stages the backward pass recomputes activations.
        """

    def start(self, batches: Sequence[Tensor], draws: torch.Generator) -> None:  # noqa: B027
        """Do what is due before the first update, given its batches (n, *data shape), and a generator for its draws."""

    def after_update(self, passes: Sequence[Pass], draws: torch.Generator) -> None:  # noqa: B027
        """Do what is due after the optimiser's step, given all passes of the update, and a generator for its draws."""

    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return metrics of test examples besides distortion and code usage; `targets` returns (n, *data shape)."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return the facts that the manifest should record about the objective."""
        return {}
