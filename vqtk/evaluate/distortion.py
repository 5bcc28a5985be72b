"""The distortion of reconstructions, by metrics for each kind of data: images, text, voxels, points and signals."""

from __future__ import annotations

from collections.abc import Callable
from math import log10, prod
from typing import Any

import torch
from torch import Tensor

from vqtk.losses.mse import MSE
from vqtk.models import Model

Figures = dict[str, Tensor]
"""Metrics by name, each (n, s): one value for each example and stage."""

MOST_VALUES = 1 << 24
"""The most values of reconstructions that are held at a time."""


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
