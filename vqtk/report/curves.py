"""Plots of a run: its losses, its code usage over training, and which options each stage uses."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1b4f72", "#b9770e", "#7d8a93", "#6c3483", "#1e8449", "#943126")
BESIDES = ("update", "items", "of", "entropy_pooled_nats", "used", "lr", "step_ms", "end", "agreement", "teacher")
"""What rows of metrics hold besides losses."""


def losses_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Return the losses over updates, from a run's metrics: training as lines, the test items as points.

    The points are of the same test items from the first to the last.
    """
    training = [row for row in rows if "test" not in row]
    tests = [(row["update"], row.get("subset", row["test"])) for row in rows if "test" in row]
    figure, axes = _blank(5.6, 3.4)
    names = [name for name in (training or [{}])[0] if name not in BESIDES]
    for name, colour in zip(names, _cycle(len(names)), strict=True):
        updates, values = [row["update"] for row in training], [row[name] for row in training]
        axes.plot(updates, values, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(updates, _smoothed(values), color=colour, linewidth=1.6, label=name)
        points = [(update, figures[name]) for update, figures in tests if name in figures]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linestyle="none")
    values = [row[name] for row in training for name in names]
    if values and 0 < 10 * min(values) < max(values):
        axes.set_yscale("log")
    axes.set_xlabel("update")
    axes.set_ylabel("loss (lines: training; points: test)")
    if names:
        axes.legend(frameon=False, fontsize=8)
    return figure


def entropy_figure(rows: Sequence[dict[str, Any]], options: int) -> Figure:
    """Return the entropy of all stages' codes pooled over updates, with the most that it can be."""
    training = [row for row in rows if "test" not in row]
    figure, axes = _blank(5.6, 3.4)
    axes.axhline(log(options), color="#7d8a93", linewidth=1, linestyle="--", label=f"ln {options}")
    updates = [row["update"] for row in training]
    entropies = [row["entropy_pooled_nats"] for row in training]
    axes.plot(updates, entropies, color=COLOURS[0], linewidth=0.6, alpha=0.35)
    axes.plot(updates, _smoothed(entropies), color=COLOURS[0], linewidth=1.6, label="codes of a batch")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("update")
    axes.set_ylabel("entropy (nats)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def usage_figure(usage: Sequence[Sequence[int]]) -> Figure:
    """Return how often each stage (a row) chose each option (a column), as a share of the stage's items."""
    shares = np.asarray(usage, dtype=float)
    shares /= shares.sum(1, keepdims=True)
    figure, axes = _blank(8.0, min(8.0, 1.2 + 0.16 * len(shares)))
    drawn = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    axes.set_xlabel("option")
    axes.set_ylabel("stage")
    shown = sorted({0, len(shares) // 2, len(shares) - 1})
    axes.set_yticks(shown, [str(stage + 1) for stage in shown])
    axes.grid(False)
    figure.colorbar(drawn, ax=axes, label="share of items")
    return figure


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color="#e5e5e5", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Return the running mean over a fiftieth of the values; shorter at the ends."""
    width = max(1, len(values) // 50)
    sums = np.cumsum([0.0, *values])
    ends = np.minimum(np.arange(len(values)) + width, len(values))
    starts = np.maximum(np.arange(len(values)) - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
