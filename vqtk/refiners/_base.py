"""The base class of refiners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqtk.heads import Factors
from vqtk.nn.stage import OptionRows, State, chosen_of

Choice = tuple[Tensor, Tensor, Tensor, State]
"""The chosen deltas (n, out_channels, *size), the grid (n, k), the codes (n,), and what `advance` needs."""
Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scores the deltas of a stage and chooses: (n, k, out_channels, *size) → the grid (n, k) and the codes (n,)."""


class Refiner(nn.Module, ABC):
    """The network that proposes changes to a reconstruction, in encoding and decoding alike.

    Its input and its deltas are channels; the loss converts reconstructions to and from them.
    """

    @property
    def revives(self) -> bool:
        """Whether `after_update` does anything; if not, training does not count the usage of options for it."""
        return type(self).after_update is not Refiner.after_update

    @property
    def stateful(self) -> bool:
        """Whether a state is carried from stage to stage; if not, `advance` is not called."""
        return type(self).advance is not Refiner.advance

    def initial_state(self, like: Tensor) -> State:
        """Return the state before stage 0 for the examples of `like` (n, c, *size): a pytree of (n, …) tensors."""
        return None

    @abstractmethod
    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and what `advance` needs: a pytree of batch-first tensors.

        Shapes: x (n, in_width, *size) → (n, k, out_channels, *size).
        """

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, codes (n,) → (n, out_channels, *size), and what `advance` needs."""
        deltas, carry = self.propose(x, stage, state)
        return chosen_of(deltas, codes), carry

    def choose_many(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the deltas of several options for each example, and what `advance` needs.

        A refiner should override this if it can compute them without the others: its backward pass then computes the
        gradient of these options only.

        Shapes: codes (n, m) → (n, m, out_channels, *size).
        """
        deltas, carry = self.propose(x, stage, state)
        return chosen_of(deltas, codes), carry

    def choose_by(self, x: Tensor, stage: int, state: State, judge: Judge) -> Choice:
        """Propose, choose by the judge, and return the chosen deltas, with a gradient for them alone.

        A refiner should override this if it can compute its features once for both.
        """
        return choose_in_two_passes(self.propose, self.choose, x, stage, state, judge)

    def has_factors(self, n: int) -> bool:
        """Return whether `factors` gives the deltas for n examples, and scoring by them takes less work."""
        return False

    def factors(self, x: Tensor, stage: int, state: State) -> tuple[Factors, State]:
        """Return all deltas as factors, and what `advance` needs."""
        raise NotImplementedError

    def guess(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return cheap guesses of all deltas, by which a search pre-selects options; by default the deltas themselves.

        Shapes: → (n, k, out_channels, *size), or (1, k, …) if they do not depend on x.
        """
        return self.propose(x, stage, state)[0]

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the state of the next stage, given the carry of `propose`, the codes (n,) and the new x."""
        return None

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the rows of each option in the parameters that only a stage's deltas of that option depend on.

        The training setting `revive` copies them from option to option.
        """
        return []

    def table(self, stage: int) -> OptionRows | None:
        """Return the rows that a stage adds to its deltas as they are, a codeword for each option; None without them.

        Training can start them at centres of the data, and redraw those of idle options.
        """
        return None

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Revive unused options after an update; usage (stages, k) counts how often each option was the best."""


def choose_in_two_passes(
    propose: Callable[[Tensor, int, State], tuple[Tensor, State]],
    choose: Callable[[Tensor, int, State, Tensor], tuple[Tensor, State]],
    x: Tensor,
    stage: int,
    state: State,
    judge: Judge,
) -> Choice:
    """Choose by two of a refiner's functions: with a gradient, the network is computed a second time."""
    with torch.no_grad():
        deltas, carry = propose(x, stage, state)
        grid, codes = judge(deltas)
    if not torch.is_grad_enabled():
        return chosen_of(deltas, codes), grid, codes, carry
    chosen, carry = choose(x, stage, state, codes)
    return chosen, grid, codes, carry
