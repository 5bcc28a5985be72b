"""A comparison as one self-contained page, and its plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

from vqtk.compare.notes import format_mean_std
from vqtk.compare.result import ComparedVariant, RunComparison, Sweep
from vqtk.compare.statistics import mean_interval
from vqtk.compare.tables import costs_table, results_table, stages_table
from vqtk.files import write_text
from vqtk.report.page import as_html, as_svg, newest_image, page_template
from vqtk.report.plots import (
    COLOURS,
    INK,
    WIDTH,
    Curve,
    add_values,
    blank_plot,
    line_styles,
    markers,
    maybe_logarithmic,
    rate_distortion_plot,
    set_style,
    with_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compared_rate_distortion(comparison: RunComparison) -> Figure | None:
    """Plot distortion over bits for each variant; None if the losses are in different units."""
    if comparison.units:
        return None
    curves = []
    for row in comparison.variants:
        stages = [(stage.bits, stage.distortion.mean, stage.distortion.std) for stage in row.stages]
        known = [(bits, mean, std or 0.0) for bits, mean, std in stages if mean is not None]
        if known:
            curves.append(Curve(row.name, [(bits, mean) for bits, mean, _ in known], [std for *_, std in known]))
    label = "distortion (loss in training units)"
    return rate_distortion_plot(curves, label, references=comparison.references) if curves else None


def curves_plot(comparison: RunComparison) -> Figure | None:
    """Plot the test metric over updates: thin lines are seeds, thick lines their mean."""
    figure, axes = blank_plot("update", f"{comparison.curve} (test)")
    values: list[float] = []
    for style, row in _styled(comparison):
        curves = [dict(run.curve) for run in row.runs if run.curve]
        for curve in curves:
            axes.plot(*zip(*curve.items(), strict=True), **{**style, "alpha": 0.35, "linewidth": 0.8, "label": None})
            values += curve.values()
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        means = [float(np.mean([curve[update] for curve in curves])) for update in common]
        axes.plot(common, means, **style, **markers(2 * len(common)))
        points = list(zip(common, means, strict=True))
        add_values(axes, points, [f"{row.name}, update {x:,}: {y:.4g}" for x, y in points])
    maybe_logarithmic(axes, values)
    return with_legend(figure, axes) if values else None


def compared_entropy(comparison: RunComparison) -> Figure:
    """Plot the entropy of each stage's code as a share of its maximum, ln options."""
    figure, axes = blank_plot("rate (bits per example)", "entropy / ln options")
    for style, row in _styled(comparison):
        bits, shares = [stage.bits for stage in row.stages], [stage.entropy for stage in row.stages]
        axes.plot(bits, shares, **style, **markers(len(bits)))
        points = list(zip(bits, shares, strict=True))
        add_values(axes, points, [f"{row.name}, {x:g} bits: {y:.3f}" for x, y in points])
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.03)
    return with_legend(figure, axes)


def pareto_plot(comparison: RunComparison) -> Figure | None:
    """Plot quality against cost, and join the variants that no other beats in both."""
    timed = comparison.against == "time"
    label = "training time (s)" if timed else "operations to encode an example (FLOPs)"
    figure, axes = blank_plot(label, comparison.metric)
    points = []
    for style, row in _styled(comparison):
        cost, quality = row.costs.train_s if timed else row.costs.encode_flops, row.result.mean
        if cost is not None and quality is not None:
            points.append((cost, quality))
            axes.errorbar(cost, quality, row.result.std, color=style["color"], marker="o", capsize=3, label=row.name)
            add_values(axes, [(cost, quality)], [f"{row.name}: {format_mean_std(row.result)} at {cost:.4g}"])
    front = pareto_front(points, higher=comparison.better == "higher")
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


def differences_plot(comparison: RunComparison) -> Figure | None:
    """Plot each variant's difference from the baseline, with its interval."""
    from matplotlib.ticker import MaxNLocator

    styled = [
        (style, row.name, row.difference.mean, row.difference)
        for style, row in _styled(comparison)
        if row.difference and row.difference.mean is not None
    ]
    if not styled:
        return None
    figure, axes = blank_plot(f"{comparison.metric}, difference from {comparison.baseline}", "")
    figure.set_size_inches(WIDTH, 1.1 + 0.35 * len(styled))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for place, (style, name, mean, gap) in enumerate(styled):
        if gap.low is not None and gap.high is not None:
            axes.plot([gap.low, gap.high], [place, place], color=style["color"], linewidth=2)
        axes.plot(mean, place, color=style["color"], marker="o", fillstyle="full" if gap.significant else "none")
        interval = "" if gap.low is None or gap.high is None else f", from {gap.low:+.4g} to {gap.high:+.4g}"
        add_values(axes, [(mean, place)], [f"{name}: {mean:+.4g}{interval}"])
    if comparison.within is not None:
        axes.axvspan(-comparison.within, comparison.within, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(styled)), [name for _, name, *_ in styled])
    axes.set_ylim(len(styled) - 0.5, -0.5)
    return figure


def effects_plot(comparison: RunComparison) -> Figure | None:
    """Plot the main effect of each axis: the mean over the runs of each value, with the deviation over seeds."""
    from matplotlib.figure import Figure

    effects = {axis: rows for axis, rows in comparison.effects.items() if axis not in comparison.sweeps}
    if not effects:
        return None
    figure = Figure(figsize=(2.0 + 2.3 * len(effects), 3.2), layout="constrained")
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (axis, rows) in zip(panels, effects.items(), strict=True):
        set_style(axes, axis, "")
        means, stds = [row.result.mean for row in rows], [row.result.std or 0.0 for row in rows]
        axes.errorbar(range(len(rows)), means, stds, color=COLOURS[0], marker="o", capsize=3, linestyle="none")
        known = [(place, row) for place, row in enumerate(rows) if row.result.mean is not None]
        texts = [f"{axis} = {row.value}: {format_mean_std(row.result)}" for _, row in known]
        add_values(axes, [(place, row.result.mean or 0.0) for place, row in known], texts)
        axes.set_xticks(range(len(rows)), [row.value for row in rows], rotation=30, ha="right")
        axes.margins(x=0.15)
    panels[0].set_ylabel(comparison.metric, color=INK)
    return figure


_MOST_TICKS = 8
"""The most numbers of an axis that are written below it."""


def sweeps_plot(comparison: RunComparison) -> Figure | None:
    """Plot the metric over each axis of numbers: means over seeds with their intervals.

    A line joins the variants that differ in this axis alone.
    """
    from matplotlib.figure import Figure

    sweeps = comparison.sweeps
    if not sweeps:
        return None
    figure = Figure(figsize=(max(WIDTH, 3.4 * len(sweeps)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0]
    for axes, (axis, sweep) in zip(panels, sweeps.items(), strict=True):
        set_style(axes, axis, "")
        groups: dict[str, list[ComparedVariant]] = {}
        for row in comparison.variants:
            if row.name in sweep.numbers and row.result.mean is not None:
                rest = ", ".join(value for other, value in row.choices.items() if other != axis)
                groups.setdefault(rest, []).append(row)
        joined = any(len(rows) > 1 for rows in groups.values())
        for style, rows in zip(line_styles(list(groups)), groups.values(), strict=True):
            _swept(axes, sorted(rows, key=lambda row: sweep.numbers[row.name]), sweep, style if joined else {})
        if sweep.scale == "log":
            axes.set_xscale("log")
        numbers = sorted(set(sweep.numbers.values()))
        if len(numbers) <= _MOST_TICKS:  # Round numbers in between would hide those that were tried.
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers], rotation=30, ha="right")
            axes.minorticks_off()
        if joined and 1 < len(groups) <= len(COLOURS):
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    panels[0].set_ylabel(comparison.metric, color=INK)
    return figure


def _swept(axes: Axes, rows: Sequence[ComparedVariant], sweep: Sweep, style: dict[str, Any]) -> None:
    """Draw variants over their numbers: their means, and intervals where there are enough seeds."""
    colour = style.get("color", COLOURS[0])
    numbers = [sweep.numbers[row.name] for row in rows]
    means = [row.result.mean for row in rows if row.result.mean is not None]  # Of all of them.
    axes.plot(numbers, means, **{"color": colour, "marker": "o", "markersize": 3, **style})
    add_values(
        axes, list(zip(numbers, means, strict=True)), [f"{row.name}: {format_mean_std(row.result)}" for row in rows]
    )
    for number, row in zip(numbers, rows, strict=True):
        found = mean_interval([run.value for run in row.runs if run.value is not None])
        if found:
            axes.plot([number, number], found, color=colour, linewidth=1.2, marker="_", markersize=6)


def _styled(comparison: RunComparison) -> list[tuple[dict[str, Any], ComparedVariant]]:
    styles = line_styles([row.name for row in comparison.variants])
    return list(zip(styles, comparison.variants, strict=True))


_PLOTS = (
    (differences_plot, "Differences from the baseline with their intervals; a filled point is significant."),
    (curves_plot, "The test metric during training: thin lines are seeds, thick lines their mean."),
    (compared_rate_distortion, "Rate and distortion; the band is one standard deviation over seeds."),
    (pareto_plot, "Quality against cost; the dotted line joins the variants that no other beats in both."),
    (sweeps_plot, "Each setting that is a number: means over seeds, with 95 % intervals from three seeds on."),
    (effects_plot, "Main effects: the mean over the variants with each value, all else being equal."),
    (compared_entropy, "Code usage: 1 means that all options are used equally often."),
)
_IMAGES = {
    "samples": (
        "Samples of codes drawn uniformly, or from a model's own prior. Variants whose codes have the same shape "
        "decode the same codes."
    ),
    "reconstructions": "Test examples, each with its reconstruction; the same examples for each variant.",
}


class _Drawn(NamedTuple):
    content: Markup
    caption: str


def write_page(comparison: RunComparison, path: Path) -> Path:
    """Write the page of a comparison, with images from the directories of its runs. Raises: OSError."""
    drawn = [(draw(comparison), caption + _referred(draw, comparison)) for draw, caption in _PLOTS]
    plots = [_Drawn(as_svg(plot), caption) for plot, caption in drawn if plot]
    page = page_template("vqtk.compare", "comparison.html.j2").render(
        comparison=comparison,
        results=results_table(comparison),
        costs=costs_table(comparison),
        stages=stages_table(comparison),
        plots=plots,
        images={kind: (caption, _images(comparison, kind)) for kind, caption in _IMAGES.items()},
    )
    write_text(path, page)
    return path


def _referred(draw: object, comparison: RunComparison) -> str:
    """Return what the references in the plot of rate and distortion are."""
    found = comparison.references
    if draw is not compared_rate_distortion or not found:
        return ""
    kmeans, gaussian = found["kmeans"]["label"], found["gaussian"]["label"]
    return f" Without a network, at {found['options']} options a stage: {kmeans}; {gaussian}."


def _images(comparison: RunComparison, kind: str) -> list[_Drawn]:
    """Return the newest image of each variant, of the first seed that most of them have."""
    having = [seed for row in comparison.variants for seed in row.seeds]
    seed = min(having, key=lambda one: (-having.count(one), one))
    found = []
    for row in comparison.variants:
        run = next((run for run in row.runs if run.seed == seed), row.runs[0])
        newest = newest_image(run.path / "images", kind)
        if newest:
            content = as_html(newest, row.name, pixelated=comparison.kind != "points")
            found.append(_Drawn(content, f"{row.name}, seed {run.seed}"))
    return found
