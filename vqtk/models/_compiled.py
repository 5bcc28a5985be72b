"""A stage compiled by inductor: the refiner's network, and the loss with the gradient of the choice.

Refiner and loss are compiled separately, split at the deltas: a convolution writes these to memory anyway, and the loss
reads them once. The choice between them, and the state, are not compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vqtk.errors import VqtkWarning
from vqtk.losses import Loss
from vqtk.nn.stage import State
from vqtk.refiners import Choice, Judge, Refiner, choose_in_two_passes

_SHIFT = 2
"""Added to stages: the compiler treats the integers 0 and 1 as constants, and would make a graph for each."""


def _propose(refiner: Refiner, x: Tensor, shifted: int, state: State) -> tuple[Tensor, State]:
    return refiner.propose(x, shifted - _SHIFT, state)


def _choose(refiner: Refiner, x: Tensor, shifted: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
    return refiner.choose(x, shifted - _SHIFT, state, codes)


def _grid(loss: Loss, x: Tensor, deltas: Tensor, target: Tensor) -> Tensor:
    return loss.grid(x, deltas, target)


def _take(loss: Loss, x: Tensor, deltas: Tensor, target: Tensor, grid: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    return loss.take(x, deltas, target, grid, codes)


@dataclass(frozen=True)
class CompiledRefiner:
    """The compiled calls of a refiner; they take shifted stages."""

    propose_shifted: Callable[..., tuple[Tensor, State]]
    choose_shifted: Callable[..., tuple[Tensor, State]]

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and what `advance` needs."""
        return self.propose_shifted(x, stage + _SHIFT, state)

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, and what `advance` needs."""
        return self.choose_shifted(x, stage + _SHIFT, state, codes)

    def choose_by(self, x: Tensor, stage: int, state: State, judge: Judge) -> Choice:
        """Propose, choose by the judge, and return the chosen deltas."""
        return choose_in_two_passes(self.propose, self.choose, x, stage, state, judge)


class CompiledStage:
    """The compiled refiners and loss that `VQDraw` calls instead of its own, for batches of one size.

    All refiners of a model share the graphs, because a stage is data to them. Batches of other sizes, and the first
    stage, where one example represents the batch, use the uncompiled code: a graph for each would cost more than it
    saves.

    Arguments:
        loss: the model's loss.
        batch: the number of examples to compile for.
        backend: the backend of `torch.compile`.
    """

    def __init__(self, loss: Loss, batch: int, *, backend: str = "inductor"):
        self.loss, self.batch = loss, batch
        self._propose, self._choose = (_compiled(function, backend) for function in (_propose, _choose))
        self._grid, self._take = (_compiled(function, backend) for function in (_grid, _take))

    def takes(self, x: Tensor) -> bool:
        """Return whether a batch has the size that is compiled for."""
        return len(x) == self.batch > 1

    def network(self, refiner: Refiner) -> CompiledRefiner:
        """Return a refiner's compiled network."""
        return CompiledRefiner(partial(self._propose, refiner), partial(self._choose, refiner))

    def grid(self, x: Tensor, deltas: Tensor, target: Tensor) -> Tensor:
        """Return the grid to choose by."""
        score = self._grid if self.takes(deltas) else _grid
        return score(self.loss, x, deltas, target)

    def take(self, x: Tensor, deltas: Tensor, target: Tensor, grid: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grid and the chosen reconstruction."""
        take = self._take if self.takes(deltas) else _take
        return take(self.loss, x, deltas, target, grid, codes)


def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Return a function compiled for fixed sizes and any stage; if that fails, it runs uncompiled, with a warning."""
    from torch._dynamo.exc import TorchDynamoException  # Here because importing it takes a second.

    options = getattr(torch.compiler, "config", None)
    known = hasattr(options, "dynamic_sources")
    if known and "L['shifted']" not in options.dynamic_sources:  # type: ignore[union-attr]
        options.dynamic_sources = ",".join(filter(None, [options.dynamic_sources, "L['shifted']"]))  # type: ignore[union-attr]
    # Older releases of torch make one graph for the first stage that they see, and then one for all others.
    compiled = torch.compile(function, backend=backend, dynamic=False if known else None)
    failed = False

    def call(*given: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return compiled(*given)
            except TorchDynamoException as error:
                failed = True
                reason, name = " ".join(str(error).split()).partition(" Set TORCH")[0], function.__name__.strip("_")
                warnings.warn(f"{name} cannot be compiled ({reason}), so it runs uncompiled.", VqtkWarning, 2)
        return function(*given)

    return call
