"""Everything that `vqtk eval` measures of a model's codes: rate, distortion, usage and speed, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Split, batches_of
from vqtk.evaluate.distortion import stage_figures
from vqtk.evaluate.speed import Rates, Stopwatch, rates
from vqtk.evaluate.walks import Evaluation, suited_batch
from vqtk.models import Model, usage_of

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Yields the parts of a piece of work, showing how far it is; the second argument says what it is."""


@dataclass(frozen=True)
class Measured:
    """What a pass over a split found; `codes` (n, stages) are those of the items, in their order, on the CPU."""

    evaluation: Evaluation
    rates: Rates
    codes: Tensor


def untracked(parts: Sequence[Any], what: str) -> Iterable[Any]:
    """Yield the parts, showing nothing."""
    return parts


@torch.no_grad()
def measure(
    model: Model, split: Split, *, items: Tensor | None = None, batch: int | None = None, track: Track = untracked
) -> Measured:
    """Encode the items (indices; all by default) by the model's own search, `batch` at a time, and decode them.

    Distortion is the loss of the reconstruction after each stage, by `model.loss`.
    """
    model.eval()
    chosen = torch.arange(len(split)) if items is None else items
    size = min(batch or suited_batch(model), len(chosen))
    encode, decode = Stopwatch(model.device), Stopwatch(model.device)
    totals: dict[str, Tensor] = {}
    codes = []
    for target in targets(model, split, chosen, batch=size, track=track, what="test items"):
        codes.append(encode(len(target), partial(model.encode, target)))
        decode(len(target), partial(model.decode, codes[-1]))
        for name, values in stage_figures(model, codes[-1], target).items():
            totals[name] = totals.get(name, 0.0) + values.sum(0)
        codes[-1] = codes[-1].cpu()
    joined = torch.cat(codes)
    evaluation = _evaluation(model, {name: total / len(chosen) for name, total in totals.items()}, joined)
    return Measured(evaluation, rates(encode, decode, batch=size), joined)


@torch.no_grad()
def encode_all(
    model: Model,
    split: Split,
    *,
    items: Tensor,
    batch: int | None = None,
    track: Track = untracked,
    what: str = "items",
) -> Tensor:
    """Return the codes of the items (indices) of a split: (n, stages), on the CPU."""
    size = batch or suited_batch(model)
    parts = targets(model, split, items, batch=size, track=track, what=what)
    return torch.cat([model.encode(target).cpu() for target in parts])


def targets(model: Model, split: Split, items: Tensor, *, batch: int, track: Track, what: str) -> Iterator[Tensor]:
    """Yield the items (indices) of a split in training units on the model's device, `batch` at a time."""
    for raw in batches_of(split, track(items.split(batch), what)):
        yield model.data.normalise(raw.to(model.device), model.dtype)


def _evaluation(model: Model, means: dict[str, Tensor], codes: Tensor) -> Evaluation:
    figures = {
        name: [None] * (model.stages - len(values)) + [float(value) for value in values]
        for name, values in means.items()
    }
    return Evaluation(
        items=len(codes),
        distortion=figures.pop("distortion"),
        all=None,
        usage=usage_of(codes, model.options),
        options=model.options,
        normalised=model.loss.normalised,
        values=prod(model.data.shape),
        kind=model.data.kind,
        figures=figures,
        reached={name: float(values[-1]) for name, values in means.items() if name != "distortion"},
    )
