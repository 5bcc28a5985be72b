"""What every refiner is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vqtk.nn.stage import State, chosen_of


class Refiner(nn.Module, ABC):
    """The network that proposes changes to a reconstruction, for encoding and decoding alike.

    It sees the reconstruction as channels, and yields deltas as channels; the loss translates both.
    """

    @property
    def revives(self) -> bool:
        """Whether `after_update` does anything; where it does not, training counts no usage for it."""
        return type(self).after_update is not Refiner.after_update

    @property
    def stateful(self) -> bool:
        """Whether anything is carried from stage to stage; where it is not, `advance` is not called."""
        return type(self).advance is not Refiner.advance

    def initial_state(self, like: Tensor) -> State:
        """Return the state before stage 0 for the items of `like` (n, c, *size): a pytree of (n, …) tensors."""
        return None

    @abstractmethod
    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and what `advance` needs, a pytree of which each tensor is batch-first.

        Shapes: x (n, in_width, *size) → (n, k, out_channels, *size).
        """

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, codes (n,) → (n, out_channels, *size), and what `advance` needs."""
        deltas, carry = self.propose(x, stage, state)
        return chosen_of(deltas, codes), carry

    def choose_many(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the deltas of several options an example, and what `advance` needs.

        A refiner that can compute them without all others should override this: the gradient of a few options is
        then all that its backward pass computes.

        Shapes: codes (n, m) → (n, m, out_channels, *size).
        """
        deltas, carry = self.propose(x, stage, state)
        return chosen_of(deltas, codes), carry

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the next stage's state, given what `propose` left, the codes (n,) and the new x."""
        return None

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Revive options after an update; usage (stages, k) counts how often each option was the best."""
