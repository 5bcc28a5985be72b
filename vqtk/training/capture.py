"""The optimiser's state on a device, and updates captured as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vqtk.errors import VqtkWarning
from vqtk.nn.graph import Captured, Recorder
from vqtk.nn.stage import State
from vqtk.objectives import Pass


def is_capturable(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser's step may be captured: whether it keeps all numbers that change on the device."""
    return all(group.get("capturable", False) for group in optimizer.param_groups)


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rate of each group of parameters that the optimiser was built with.

    On CUDA, that of a capturable optimiser becomes a tensor on the device: a captured step reads its current value,
    where a Python number would be fixed in the graph.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        device = next((value.device for value in group["params"]), torch.device("cpu"))
        if device.type == "cuda" and is_capturable(optimizer):
            group["lr"] = torch.tensor(rate, device=device)
    return rates


def restore(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Load a state but keep the optimiser's own form, since the state may have been saved on another device."""
    form = ("lr", "fused", "capturable")
    own = [{key: group[key] for key in form if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update(kept)


Backward = Callable[[Tensor, State, float], Pass]
"""A piece of a batch, the selector's draws for it, and its share of the batch → the pass over it."""
Step = Callable[[], Tensor | None]
"""Changes the weights by their gradients → the norm of the gradient, if it is limited."""


class CapturedUpdate:
    """The two parts of an update that do all of its arithmetic, captured when they are first called.

    The draws, the learning rate and the batch are data, copied to where the graphs read them. The step of an optimiser
    that is not capturable is not captured; nor is `after_update`, because it may branch on values. If a part cannot be
    captured, updates are computed without graphs, with a warning that says why.
    """

    def __init__(self, backward: Backward, step: Step, optimizer: torch.optim.Optimizer, recorder: Recorder):
        self.plain, self.plain_step, self.optimizer = backward, step, optimizer
        guard = partial(snapshot, optimizer)
        self._backward = Captured(self._values, recorder, guard=guard)
        self._step: Step = Captured(step, recorder, guard=guard) if is_capturable(optimizer) else step
        self._names: list[str] = []
        self.failed = False

    def zero_grad(self) -> None:
        """Zero the gradients in place: the graphs add to the tensors that existed when they were captured."""
        self.optimizer.zero_grad(set_to_none=self.failed)

    def backward(self, piece: Tensor, draws: State, share: float) -> Pass:
        """Add the gradient of a piece of a batch."""
        if not self.failed:
            try:
                loss, codes, encoded, *terms = self._backward(piece, draws, share)
                return Pass(loss, dict(zip(self._names, terms, strict=True)), codes, encoded)
            except RuntimeError as error:
                self._fail(error)
        return self.plain(piece, draws, share)

    def step(self) -> Tensor | None:
        """Take the optimiser's step; return the norm of the gradient, if it is limited."""
        if not self.failed:
            try:
                return self._step()
            except RuntimeError as error:
                self._fail(error)
        return self.plain_step()

    def _values(self, piece: Tensor, draws: State, share: float) -> list[Tensor | None]:
        passed = self.plain(piece, draws, share)
        self._names = list(passed.terms)
        return [passed.loss, passed.codes, passed.encoded, *passed.terms.values()]

    def _fail(self, error: RuntimeError) -> None:
        self.failed = True
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"updates cannot be captured as a graph ({reason}), so none is used.", VqtkWarning, 2)


def snapshot(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a function that restores weights, gradients and moments in place; those created since become 0."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    weights = [value.detach().clone() for value in parameters]
    gradients = [None if value.grad is None else value.grad.clone() for value in parameters]
    moments = {value: {name: _kept(one) for name, one in optimizer.state[value].items()} for value in optimizer.state}

    @torch.no_grad()
    def put_back() -> None:
        for value, weight, gradient in zip(parameters, weights, gradients, strict=True):
            value.copy_(weight)
            if value.grad is not None:
                value.grad.zero_() if gradient is None else value.grad.copy_(gradient)
            for name, one in optimizer.state.get(value, {}).items():
                if isinstance(one, Tensor):
                    before = moments.get(value, {}).get(name)
                    one.zero_() if before is None else one.copy_(before)

    return put_back


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
