"""The distortion of reconstructions, by metrics for each kind of data, and what a search among them finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import log10, prod
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Split, Splits
from vqtk.losses.mse import MSE
from vqtk.models import Model

Figures = dict[str, Tensor]
"""Metrics by name, each (n, s): one value for each example and stage."""

MOST_VALUES = 1 << 24
"""The most values of reconstructions that are held at a time."""
RECALL_AT = (1, 10, 100)
QUERIES_AT_ONCE = 1024


def stage_figures(model: Model, codes: Tensor, target: Tensor) -> Figures:
    """Return the metrics after each stage: `distortion`, which is the loss, and those of the kind of data.

    A model that is not stepwise has one column, its last stage.

    Shapes: codes (n, stages), target (n, *data shape) in training units → float64 (n, s) each, on the CPU.
    """
    stages = codes.shape[1] if model.stepwise else 1
    part = max(1, MOST_VALUES // (stages * prod(model.loss.shape)))
    found: dict[str, list[Tensor]] = {}
    for some, aims in zip(codes.split(part), target.split(part), strict=True):
        after = model.decode_stages(some) if model.stepwise else model.decode(some)[:, None]
        figures = {"distortion": model.loss(after, aims), **figures_of(model, after, aims)}
        for name, values in figures.items():
            found.setdefault(name, []).append(values.double().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def psnr_db(mse_pixels: float | None) -> float | None:
    """Return the peak signal-to-noise ratio of a mean squared error of pixels in [0, 1]; None if it is infinite."""
    return 10 * log10(1 / mse_pixels) if mse_pixels else None


def figures_of(model: Model, after: Tensor, target: Tensor) -> Figures:
    """Return the metrics of the kind of data, which have the same units whatever the loss.

    Shapes: after (n, s, *reconstruction shape), target (n, *data shape) in training units → (n, s) each.
    """
    kinds: dict[str, Callable[[Any, Tensor, Tensor], Figures]] = {
        "image": _image, "text": _text, "voxels": _voxels, "points": _points,
        "signals": _signals,
    }  # fmt: skip
    shown = model.loss.show(after.flatten(0, 1)).unflatten(0, after.shape[:2])
    return kinds[model.data.kind](model, shown, target[:, None])


def _image(model: Model, shown: Tensor, target: Tensor) -> Figures:
    """Return the squared error of pixels in [0, 1], and in training units if these differ.

    With the loss `mse`, `distortion` is the error in training units already.
    """
    data = model.data
    figures = {"mse_pixels": _mean((data.pixels(shown) - data.pixels(target)).square())}
    if not isinstance(model.loss, MSE) and (data.mean, data.std) != (0.0, 1.0):
        figures = {"mse": _mean((shown - target).square()), **figures}
    return figures


def _text(model: Model, shown: Tensor, target: Tensor) -> Figures:
    """Return the fraction of correct tokens."""
    return {"token_accuracy": _mean((shown == target).double())}


def _voxels(model: Model, shown: Tensor, target: Tensor) -> Figures:
    """Return the intersection over union of voxels of at least 0.5; 1 if both grids are empty."""
    found, there = (shown >= 0.5).flatten(2), (target >= 0.5).flatten(2)
    either = (found | there).sum(2)
    both = (found & there).sum(2)
    return {"iou": torch.where(either > 0, both / either.clamp(min=1), 1.0)}


def _points(model: Model, shown: Tensor, target: Tensor) -> Figures:
    """Return the distance from a point to its reconstruction, in training units."""
    return {"distance": torch.linalg.vector_norm(shown - target, dim=2)}


def _signals(model: Model, shown: Tensor, target: Tensor) -> Figures:
    """Return the squared error in training units, unless that is the loss."""
    return {} if isinstance(model.loss, MSE) else {"mse": _mean((shown - target).square())}


def _mean(values: Tensor) -> Tensor:
    return values.flatten(2).mean(2)


# ── search ───────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def search_figures(model: Model, splits: Splits, items: Tensor, codes: Tensor) -> dict[str, float]:
    """Return how well a search among decoded test examples finds the nearest one of each query; {} without queries.

    `recall_at_R` is the fraction of the queries whose nearest example is among the R whose reconstructions are nearest,
    by exact search in L2. `squared_error` is the mean squared distance of an example to its reconstruction, in the
    units of the files: a sum over values, as it is reported for vectors. Examples are read and decoded in blocks.

    Arguments:
        model: the model.
        splits: the data, with queries.
        items: the indices of the test examples that are searched (n,).
        codes: their codes (n, stages).
    """
    if splits.queries is None:
        return {}
    originals = partial(_blocks, model, items, splits.test)
    decoded = partial(_blocks, model, codes)
    hits = _nearest(model, splits.queries, decoded, max(RECALL_AT)) == _nearest(model, splits.queries, originals, 1)
    pairs = zip(originals(), decoded(), strict=True)
    squares = sum((one - other).double().square().sum().item() for one, other in pairs)
    std = splits.units["std"][0] if splits.units else 1.0
    recall = {f"recall_at_{most}": hits[:, :most].any(1).double().mean().item() for most in RECALL_AT}
    return {**recall, "squared_error": squares * std**2 / len(items)}


def _blocks(model: Model, which: Tensor, split: Split | None = None) -> Iterator[Tensor]:
    """Yield examples of a split (indices), or without one the reconstructions of codes, in blocks (m, values)."""
    for some in which.split(max(1, MOST_VALUES // max(prod(model.data.shape), QUERIES_AT_ONCE))):
        if split is None:
            block = model.loss.show(model.decode(some.to(model.device)))
        else:
            block = model.data.normalise(split[some].to(model.device), model.dtype)
        yield block.flatten(1)


def _nearest(model: Model, queries: Split, base: Callable[[], Iterator[Tensor]], most: int) -> Tensor:
    """Return the places of the `most` base vectors nearest to each query, the nearest first: (q, most), on the CPU."""
    found = []
    for some in torch.arange(len(queries)).split(QUERIES_AT_ONCE):
        wanted = model.data.normalise(queries[some].to(model.device), model.dtype)
        best, places, start = wanted.new_empty(len(some), 0), some.new_empty(len(some), 0).to(model.device), 0
        for block in base():
            distances = block.square().sum(1) - 2 * wanted @ block.T  # Less the square of the query, which ranks none.
            order = torch.arange(start, start + len(block), device=model.device).expand(len(some), -1)
            best, places = torch.cat([best, distances], 1), torch.cat([places, order], 1)
            best, kept = best.topk(min(most, best.shape[1]), largest=False)
            places, start = places.gather(1, kept), start + len(block)
        found.append(places.cpu())
    return torch.cat(found)
