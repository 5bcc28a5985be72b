"""The plots of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqtk.report.plots import (
    COLOURS,
    INK,
    WIDTH,
    Curve,
    blank_plot,
    line_styles,
    markers,
    maybe_logarithmic,
    rate_distortion_plot,
    set_style,
    with_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compared_rate_distortion(comparison: dict[str, Any]) -> Figure | None:
    """Plot distortion over bits for each variant; None if the losses are in different units."""
    if comparison["units"]:
        return None
    curves = []
    for row in comparison["variants"]:
        known = [stage for stage in row["stages"] if stage["mean"] is not None]
        if known:
            points = [(stage["bits"], stage["mean"]) for stage in known]
            curves.append(Curve(row["name"], points, [stage["std"] or 0.0 for stage in known]))
    label = "distortion (loss in training units)"
    return rate_distortion_plot(curves, label, references=comparison["references"]) if curves else None


def curves_plot(comparison: dict[str, Any]) -> Figure | None:
    """Plot the test metric over updates: thin lines are seeds, thick ones their mean."""
    figure, axes = blank_plot("update", f"{comparison['curve']} (test)")
    values: list[float] = []
    for style, row in _styled(comparison):
        curves = [dict(map(tuple, run["curve"])) for run in row["runs"] if run["curve"]]
        for curve in curves:
            axes.plot(*zip(*curve.items(), strict=True), **{**style, "alpha": 0.35, "linewidth": 0.8, "label": None})
            values += curve.values()
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        means = [float(np.mean([curve[update] for curve in curves])) for update in common]
        axes.plot(common, means, **style, **markers(2 * len(common)))
    maybe_logarithmic(axes, values)
    return with_legend(figure, axes) if values else None


def compared_entropy(comparison: dict[str, Any]) -> Figure:
    """Plot the entropy of each stage's code as a share of its maximum, ln options."""
    figure, axes = blank_plot("rate (bits per example)", "entropy / ln options")
    for style, row in _styled(comparison):
        bits, entropy = ([stage[key] for stage in row["stages"]] for key in ("bits", "entropy"))
        axes.plot(bits, entropy, **style, **markers(len(bits)))
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.03)
    return with_legend(figure, axes)


def pareto_plot(comparison: dict[str, Any]) -> Figure | None:
    """Plot quality against cost; the variants that no other beats in both are joined."""
    timed = comparison["against"] == "time"
    label = "training time (s)" if timed else "operations to encode an example (FLOPs)"
    figure, axes = blank_plot(label, comparison["metric"])
    points = []
    for style, row in _styled(comparison):
        cost = row["train_s"] if timed else (row["flops"] or {}).get("encode")
        if cost is not None and row["mean"] is not None:
            points.append((cost, row["mean"]))
            axes.errorbar(cost, row["mean"], row["std"], color=style["color"], marker="o", capsize=3, label=row["name"])
    front = pareto_front(points, higher=comparison["better"] == "higher")
    axes.plot([cost for cost, _ in front], [quality for _, quality in front], color=INK, linewidth=0.8, linestyle=":")
    axes.margins(0.15)
    return with_legend(figure, axes) if points else None


def pareto_front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other point beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not front or (quality > front[-1][1] if higher else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def differences_plot(comparison: dict[str, Any]) -> Figure | None:
    """Plot each variant's difference from the baseline, with its interval."""
    from matplotlib.ticker import MaxNLocator

    styled = [(style, row) for style, row in _styled(comparison) if (row["difference"] or {}).get("mean") is not None]
    if not styled:
        return None
    figure, axes = blank_plot(f"{comparison['metric']}, difference from {comparison['baseline']}", "")
    figure.set_size_inches(WIDTH, 1.1 + 0.35 * len(styled))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for place, (style, row) in enumerate(styled):
        gap = row["difference"]
        if gap["low"] is not None:
            axes.plot([gap["low"], gap["high"]], [place, place], color=style["color"], linewidth=2)
        axes.plot(gap["mean"], place, color=style["color"], marker="o", fillstyle="full" if gap["stands"] else "none")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(styled)), [row["name"] for _, row in styled])
    axes.set_ylim(len(styled) - 0.5, -0.5)
    return figure


def effects_plot(comparison: dict[str, Any]) -> Figure | None:
    """Plot the main effect of each axis: the mean over the runs of each value, with the deviation over seeds."""
    from matplotlib.figure import Figure

    effects = comparison["effects"]
    if not effects:
        return None
    figure = Figure(figsize=(2.0 + 2.3 * len(effects), 3.2), layout="constrained")
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (axis, rows) in zip(panels, effects.items(), strict=True):
        set_style(axes, axis, "")
        means, stds = [row["mean"] for row in rows], [row["std"] or 0.0 for row in rows]
        axes.errorbar(range(len(rows)), means, stds, color=COLOURS[0], marker="o", capsize=3, linestyle="none")
        axes.set_xticks(range(len(rows)), [row["value"] for row in rows], rotation=30, ha="right")
        axes.margins(x=0.15)
    panels[0].set_ylabel(comparison["metric"])
    return figure


def _styled(comparison: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rows = comparison["variants"]
    return list(zip(line_styles([row["name"] for row in rows]), rows, strict=True))
