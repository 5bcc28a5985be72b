"""What optimisers share: their fastest form on a device, and weights that are averaged for evaluation.

An optimiser is a `torch.optim.Optimizer` that is built from a model. Training sets `lr` in its parameter groups before
every step. If all groups have `capturable: True`, the step is captured as a CUDA graph and `lr` is a tensor on the
device; otherwise `lr` is a number.

An optimiser with the attribute `elementwise = True` changes each value by that value's gradient and moments alone, so
that `train.shard` may give it parts of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def fastest(model: nn.Module) -> dict[str, bool]:
    """Return `fused` and `capturable`, the arguments of torch's Adam and AdamW, for the device of a model."""
    device = next(model.parameters()).device.type
    return {"fused": device in ("cpu", "cuda"), "capturable": device == "cuda"}


@runtime_checkable
class Averaging(Protocol):
    """An optimiser that averages weights itself: it trains at other weights than those to evaluate."""

    def train(self) -> None:
        """Put the weights at which gradients are computed into the model."""

    def eval(self) -> None:
        """Put the averaged weights into the model."""


class Average:
    """An exponential moving average of weights, which starts at the weights before the first update.

    After update t = 1, 2, … it is d · average + (1 - d) · weights, with d = min(decay, t / (9 + t)), so that short runs
    do not average over untrained weights. `values` is empty until it has started.

    Source: torch.optim.swa_utils; the warm-up of the decay, tf.train.ExponentialMovingAverage's `num_updates`.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.values: list[Tensor] = []

    @torch.no_grad()
    def start(self, weights: Sequence[Tensor]) -> None:
        """Begin at these weights."""
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], update: int) -> None:
        """Take in the weights after an update, which is counted from 1. Does not wait for the device."""
        decay = min(self.decay, update / (9 + update))
        get_ema_multi_avg_fn(decay)(self.values, [weight.detach() for weight in weights], None)

    @torch.no_grad()
    def adopt(self, before: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Take over the weights that something other than the optimiser changed since `before`."""
        for average, old, new in zip(self.values, before, weights, strict=True):
            average.copy_(torch.where(new.detach() == old, average, new.detach()))


@contextmanager
def evaluating(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> Iterator[None]:
    """Let a model hold averaged weights within the context, if there are any; buffers stay as they are.

    Weights are copied in place, because captured graphs read them where they are. Afterwards they are what they were,
    bit for bit, where the optimiser's own way back would round.
    """
    averages = average is not None and average.values
    if not averages and not isinstance(optimizer, Averaging):
        yield
        return
    weights = [weight.detach() for weight in model.parameters()]
    trained = [weight.clone() for weight in weights]
    try:
        if average is not None and average.values:
            copy_weights(average.values, weights)
        elif isinstance(optimizer, Averaging):
            optimizer.eval()
        yield
    finally:
        if isinstance(optimizer, Averaging):
            optimizer.train()
        copy_weights(trained, weights)


@torch.no_grad()
def copy_weights(values: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Copy values into weights, in place. Raises: ValueError or RuntimeError if number or shapes differ."""
    for value, weight in zip(values, weights, strict=True):
        if value.shape != weight.shape:
            raise ValueError(f"a weight of shape {tuple(weight.shape)} cannot be {tuple(value.shape)}")
        weight.copy_(value)
