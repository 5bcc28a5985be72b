"""The base class of revivals: the usage of options over a window of updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vqtk.models import Model
from vqtk.nn.stage import OptionRows


class Revival(ABC):
    """Counts how often each option of a model is chosen, and after every `window` updates gives idle ones a new start.

    The counts begin at zero after each window. They are a part of the trainer's state, so resuming is exact. After the
    fraction `until` of a run's updates, training no longer calls it: what is revived late has no time to learn.
    """

    def __init__(self, model: Model, *, window: int, until: float = 1.0):
        self.model, self.window, self.until = model, window, until
        self.counts = torch.zeros(model.stages, model.options, dtype=torch.int64, device=model.device)
        self.updates = 0

    @torch.no_grad()
    def after_update(
        self, optimizer: torch.optim.Optimizer, usage: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        """Add the usage (s, k) of an update, and revive options if it is the last of the window.

        Arguments:
            optimizer: of the model's parameters.
            usage: how often each option was chosen at each stage.
            target: a batch of the update (n, *data shape), in training units.
            generator: for random numbers, seeded for this update.
        """
        self.counts += usage
        self.updates += 1
        if self.updates == self.window:
            self.revive(optimizer, self.counts, target, generator)
            self.counts.zero_()
            self.updates = 0

    @property
    def closes_window(self) -> bool:
        """Whether the next update is the last of a window."""
        return self.updates + 1 == self.window

    @abstractmethod
    def revive(
        self, optimizer: torch.optim.Optimizer, counts: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        """Revive options, given the counts (s, k) of the window; the other arguments are those of `after_update`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, for a checkpoint."""
        return {"counts": self.counts, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts."""
        self.counts.copy_(state["counts"])
        self.updates = int(state["updates"])


def values_of(rows: OptionRows, optimizer: torch.optim.Optimizer, options: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield the rows (k, c, …) of a parameter, then those of the optimiser's moments; the flag tells them apart."""
    parameter = rows.parameter
    for value in (parameter, *optimizer.state.get(parameter, {}).values()):
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield rows.of(value, options), value is not parameter
