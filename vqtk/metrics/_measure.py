"""Measures reconstructions by the metrics of their kind of data, and by others that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from vqtk.losses.mse import MSE
from vqtk.metrics._base import ReconstructionMetric
from vqtk.models import Model
from vqtk.registry import metrics

Measured = dict[str, Tensor]
"""Metrics by name, each (n, s): one value for each example and stage."""

MOST_VALUES = 1 << 24
"""The most values of reconstructions that are held at a time."""
COMPARABLE = {
    "image": ("mse_pixels", "psnr_db"),
    "text": ("token_accuracy",),
    "voxels": ("iou",),
    "points": ("distance",),
}
"""The metrics that every evaluation measures, by the kind of data; their units do not depend on the loss."""


def routine_metrics(model: Model) -> dict[str, ReconstructionMetric]:
    """Return the metrics that every evaluation of a model measures, by name.

    They include the squared error in training units, unless that is the loss, or the error of pixels times a constant.
    """
    data = model.data
    own_units = data.kind == "signals" or (data.kind == "image" and (data.mean, data.std) != (0.0, 1.0))
    names = [*(["mse"] if own_units and not isinstance(model.loss, MSE) else []), *COMPARABLE.get(data.kind, ())]
    return {name: metrics.get(name).component(data) for name in names}


def measure(
    model: Model, after: Tensor, target: Tensor, others: Mapping[str, ReconstructionMetric] | None = None
) -> Measured:
    """Return the routine metrics of reconstructions, and others by name.

    Shapes: after (n, s, *reconstruction shape), target (n, *data shape) in training units → (n, s) each.
    """
    n, stages = after.shape[:2]
    shown = model.loss.show(after.flatten(0, 1))
    aims = target if stages == 1 else target.repeat_interleave(stages, 0)
    wanted = {**routine_metrics(model), **(others or {})}
    return {name: metric.measure(shown, aims).view(n, stages) for name, metric in wanted.items()}


def measure_stages(
    model: Model, codes: Tensor, target: Tensor, others: Mapping[str, ReconstructionMetric] | None = None
) -> Measured:
    """Return the metrics after each stage: `distortion`, which is the loss, the routine ones, and others by name.

    A model that is not stepwise has one column, its last stage.

    Shapes: codes (n, stages), target (n, *data shape) in training units → float64 (n, s) each, on the CPU.
    """
    stages = codes.shape[1] if model.stepwise else 1
    part = max(1, MOST_VALUES // (stages * prod(model.loss.shape)))
    found: dict[str, list[Tensor]] = {}
    for some, aims in zip(codes.split(part), target.split(part), strict=True):
        after = model.decode_stages(some) if model.stepwise else model.decode(some)[:, None]
        for name, values in {"distortion": model.loss(after, aims), **measure(model, after, aims, others)}.items():
            found.setdefault(name, []).append(values.double().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
