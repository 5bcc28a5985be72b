"""Plots of a comparison, in colours that suit light and dark pages; `INK` and `GRID` stand for a page's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

INK, GRID = "#010203", "#040506"
COLOURS = ("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#9085e9", "#4a9c2d", "#e34948")
_REFERENCES = {"kmeans": ((0, (1, 1)), "K-means"), "gaussian": ((0, (5, 2)), "Gaussian R(D)")}
"""How the references without a network are drawn and called."""
DASHES = ("-", "--", ":", "-.")
_WIDTH = 5.0


def curves_figure(comparison: dict[str, Any]) -> Figure | None:
    """Return the test figure over updates: thin lines are seeds, thick ones their mean."""
    figure, axes = _blank("update", f"{comparison['curve']} (test)")
    values: list[float] = []
    for style, row in _styled(comparison):
        curves = [dict(map(tuple, run["curve"])) for run in row["runs"] if run["curve"]]
        for curve in curves:
            axes.plot(*zip(*curve.items(), strict=True), **{**style, "alpha": 0.35, "linewidth": 0.8, "label": None})
            values += curve.values()
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        means = [float(np.mean([curve[update] for curve in curves])) for update in common]
        axes.plot(common, means, **style, marker="o" if len(common) < 20 else None, markersize=3)
    _logarithmic(axes, values)
    return _legend(figure, axes) if values else None


def rate_distortion_figure(comparison: dict[str, Any]) -> Figure | None:
    """Return distortion over bits, mean with a band of one standard deviation; thin lines are references.

    None where the losses are in different units.
    """
    if comparison["units"]:
        return None
    figure, axes = _blank("rate (bits per item)", "distortion (loss in training units)")
    values: list[float] = []
    for style, row in _styled(comparison):
        known = [stage for stage in row["stages"] if stage["mean"] is not None]
        bits, mean = ([stage[key] for stage in known] for key in ("bits", "mean"))
        wide = [stage["std"] or 0.0 for stage in known]
        low, high = (np.array(mean) + side * np.array(wide) for side in (-1, 1))
        axes.plot(bits, mean, **style, marker="o" if len(bits) < 40 else None, markersize=3)
        axes.fill_between(bits, low, high, color=style["color"], alpha=0.18, linewidth=0)
        values += [*mean, *low.tolist()]
    for name, (line, label) in _REFERENCES.items() if comparison["references"] else ():
        points = [(point["bits"], point["mse"]) for point in comparison["references"][name]["stages"]]
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=0.9, linestyle=line, label=label)
        values += [error for _, error in points]
    axes.set_xlim(left=0)
    _logarithmic(axes, values, spread=1.5)
    return _legend(figure, axes) if values else None


def entropy_figure(comparison: dict[str, Any]) -> Figure:
    """Return the entropy of each stage's code as a share of the most that it can be."""
    figure, axes = _blank("rate (bits per item)", "entropy / ln options")
    for style, row in _styled(comparison):
        bits, entropy = ([stage[key] for stage in row["stages"]] for key in ("bits", "entropy"))
        axes.plot(bits, entropy, **style, marker="o" if len(bits) < 40 else None, markersize=3)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.03)
    return _legend(figure, axes)


def pareto_figure(comparison: dict[str, Any]) -> Figure | None:
    """Return quality against cost; the variants that no other beats in both are joined."""
    timed = comparison["against"] == "time"
    label = "training time (s)" if timed else "operations to encode an item (FLOPs)"
    figure, axes = _blank(label, comparison["metric"])
    points = []
    for style, row in _styled(comparison):
        cost = row["train_s"] if timed else (row["flops"] or {}).get("encode")
        if cost is not None and row["mean"] is not None:
            points.append((cost, row["mean"]))
            axes.errorbar(cost, row["mean"], row["std"], color=style["color"], marker="o", capsize=3, label=row["name"])
    front = pareto_front(points, higher=comparison["better"] == "higher")
    axes.plot([cost for cost, _ in front], [quality for _, quality in front], color=INK, linewidth=0.8, linestyle=":")
    axes.margins(0.15)
    return _legend(figure, axes) if points else None


def pareto_front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other point beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not front or (quality > front[-1][1] if higher else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def differences_figure(comparison: dict[str, Any]) -> Figure | None:
    """Return each variant's difference to the baseline, with its interval."""
    styled = [(style, row) for style, row in _styled(comparison) if (row["difference"] or {}).get("mean") is not None]
    if not styled:
        return None
    figure, axes = _blank(f"{comparison['metric']}, difference to {comparison['baseline']}", "")
    figure.set_size_inches(_WIDTH, 1.1 + 0.35 * len(styled))
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


def effects_figure(comparison: dict[str, Any]) -> Figure | None:
    """Return the main effect of each axis: the mean over the cells of each value, with the deviation over seeds."""
    effects = comparison["effects"]
    if not effects:
        return None
    figure = Figure(figsize=(2.0 + 2.3 * len(effects), 3.2), layout="constrained")
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (axis, rows) in zip(panels, effects.items(), strict=True):
        _style(axes)
        means, wide = [row["mean"] for row in rows], [row["std"] or 0.0 for row in rows]
        axes.errorbar(range(len(rows)), means, wide, color=COLOURS[0], marker="o", capsize=3)
        axes.set_xticks(range(len(rows)), [row["value"] for row in rows], rotation=30, ha="right")
        axes.set_xlabel(axis)
        axes.margins(x=0.15)
    panels[0].set_ylabel(comparison["metric"])
    return figure


def _styled(comparison: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each variant with how its line is drawn."""
    return [
        ({"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
          "linewidth": 1.8, "label": row["name"]}, row)
        for index, row in enumerate(comparison["variants"])
    ]  # fmt: skip


def _blank(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
    axes = figure.add_subplot()
    _style(axes)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.grid(True, which="both", color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _logarithmic(axes: Axes, values: Sequence[float], *, spread: float = 10) -> None:
    if values and 0 < spread * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")


def _legend(figure: Figure, axes: Axes) -> Figure:
    """Put the names below the plot, where they cover nothing however many they are."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, min(4, int(60 / (4 + max(map(len, names))))))
    figure.set_size_inches(_WIDTH, 3.3 + 0.2 * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure
