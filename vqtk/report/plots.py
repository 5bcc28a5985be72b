"""The plots of a run, and the style of all plots.

Matplotlib is imported when a plot is drawn: a process that only trains does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log10
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vqtk.errors import VqtkError
from vqtk.io.run_files import watched_of
from vqtk.render.labelled import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#1c2834", "#dddde0"
"""The colours of text and of grids; a page replaces them by its own, so that plots follow light and dark."""
COLOURS = ("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#9085e9", "#4a9c2d", "#e34948")
DASHES = ("-", "--", ":", "-.")
REFERENCES: dict[str, tuple[Any, str]] = {
    "kmeans": ((0, (1, 1)), "K-means"),
    "gaussian": ((0, (5, 2)), "Gaussian R(D)"),
}
"""The line and the name of each reference without a network."""
BESIDE_LOSSES = (
    "update",
    "items",
    "of",
    "entropy_pooled_nats",
    "used",
    "lr",
    "grad_norm",
    "step_ms",
    "end",
    "agreement",
    "teacher",
)
"""The keys of rows of metrics that are not losses."""
WIDTH, _HEIGHT = 5.4, 3.4
"""Of a plot, in inches."""
HOVER = "hover:"
"""What begins the address of a part of a plot that is no link but shows this text under the pointer."""
_MOST_VALUES, _MOST_CELLS = 100, 6400


# ── rate and distortion ──────────────────────────────────────────────────────────────────────────


class _Axis(NamedTuple):
    key: str
    label: str
    logarithmic: bool


_DISTORTION = {
    "image": _Axis("mse_pixels", "mean squared error (pixels in [0, 1])", True),
    "text": _Axis("distortion", "negative log-likelihood (nats per token)", False),
    "voxels": _Axis("iou", "intersection over union", False),
    "points": _Axis("distance", "mean distance (training units)", True),
    "signals": _Axis("mse", "mean squared error (training units)", True),
}


@dataclass(frozen=True)
class Curve:
    """Distortions over rates in bits: (rate, distortion) by stage, and the standard deviation where there are seeds."""

    name: str
    points: list[tuple[float, float]]
    stds: list[float] | None = None


def rate_distortion_plot(
    curves: Sequence[Curve],
    label: str,
    *,
    logarithmic: bool | None = None,
    references: dict[str, Any] | None = None,
    error: str = "mse",
    explained: bool = False,
) -> Figure:
    """Plot distortion over rate, a point a stage, with a band of one standard deviation.

    Arguments:
        curves: one for each model or variant.
        label: of the distortion, with its unit.
        logarithmic: whether the distortion is; by default where it spans a factor of 1.5.
        references: as `References.plain` has them; thin lines.
        error: their error that is comparable: `mse` or `mse_pixels`.
        explained: whether the legend explains the references, for plots without a caption.
    """
    figure, axes = blank_plot("rate (bits per example)", label)
    values: list[float] = []
    for style, curve in zip(line_styles([curve.name for curve in curves]), curves, strict=True):
        bits, means = (np.array(column) for column in zip(*curve.points, strict=True))
        axes.plot(bits, means, **style, **markers(len(bits)))
        texts = [f"{curve.name}, {x:g} bits: {y:.4g}" for x, y in curve.points]
        if curve.stds is not None:
            texts = [f"{text} ± {std:.2g}" for text, std in zip(texts, curve.stds, strict=True)]
        add_values(axes, curve.points, texts)
        values += means.tolist()
        if curve.stds is not None:
            low, high = means - curve.stds, means + curve.stds
            axes.fill_between(bits, low, high, color=style["color"], alpha=0.18, linewidth=0)
            values += low.tolist()
    for name, (line, title) in REFERENCES.items() if references else ():
        points = [(point["bits"], point[error]) for point in references[name]["stages"]]  # type: ignore[index]
        named = fill(references[name]["label"], 70) if explained else title  # type: ignore[index]
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=0.9, linestyle=line, label=named)
        add_values(axes, points, [f"{title}, {x:g} bits: {y:.4g}" for x, y in points])
        values += [distortion for _, distortion in points]
    axes.set_xlim(left=0)
    if logarithmic is not False:
        maybe_logarithmic(axes, values, factor=1.0 if logarithmic else 1.5)
    return with_legend(figure, axes) if len(curves) > 1 or references else figure


def run_rate_distortion(
    rows: Sequence[dict[str, Any]], kind: str, *, references: dict[str, Any] | None = None, loss: str | None = None
) -> Figure:
    """Plot a model's rate and distortion from the rows of `Evaluation.stages`.

    Images show the error of pixels, points their distance, and signals their error; text nats per token; voxels
    intersection over union. Stages without a reconstruction are left out. References are drawn beside errors of
    pixels, and beside the loss if it is `mse`.
    """
    axis = _DISTORTION[kind]
    if axis.key not in rows[0]:
        axis = _Axis("distortion", "distortion (loss)", kind in ("image", "points", "signals"))
    error = {"mse_pixels": "mse_pixels", "distortion": "mse" if loss == "mse" else None}.get(axis.key)
    curve = Curve("the model", [(row["bits"], row[axis.key]) for row in rows if row[axis.key] is not None])
    compared = references if references and error else None
    return rate_distortion_plot(
        [curve], axis.label, logarithmic=axis.logarithmic, references=compared, error=error or "mse", explained=True
    )


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


def losses_plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """Plot the losses over updates, from a run's metrics: training as lines, the test or validation examples as points.

    The points are of the same examples from the first to the last.
    """
    training = [row for row in rows if watched_of(row) is None]
    tests = [(row["update"], metrics) for row in rows if (metrics := watched_of(row))]
    split = "validation" if any("validation" in row for row in rows) else "test"
    figure, axes = blank_plot("update", f"loss (lines: training; points: {split})")
    names = [name for name in (training or [{}])[0] if name not in BESIDE_LOSSES]
    updates, values = [row["update"] for row in training], []
    for style, name in zip(line_styles(names), names, strict=True):
        losses = [row[name] for row in training]
        _smoothed_line(axes, updates, losses, style)
        points = [(update, metrics[name]) for update, metrics in tests if name in metrics]
        if points:
            axes.plot(*zip(*points, strict=True), color=style["color"], marker="o", markersize=4, linestyle="none")
            add_values(axes, points, [f"{split} {name}, update {x:,}: {y:.4g}" for x, y in points])
        values += losses
    maybe_logarithmic(axes, values)
    return with_legend(figure, axes) if names else figure


def entropy_plot(rows: Sequence[dict[str, Any]], options: int) -> Figure:
    """Plot the entropy of the codes of all stages, pooled, over updates; and its maximum, ln options."""
    training = [row for row in rows if watched_of(row) is None]
    figure, axes = blank_plot("update", "entropy (nats)")
    (style,) = line_styles(["codes of a batch"])
    updates, entropies = ([row[key] for row in training] for key in ("update", "entropy_pooled_nats"))
    _smoothed_line(axes, updates, entropies, style)
    axes.axhline(log(options), color=INK, linewidth=0.9, linestyle="--", label=f"ln {options}")
    axes.set_ylim(bottom=0)
    return with_legend(figure, axes)


def usage_plot(usage: Sequence[Sequence[int]]) -> Figure:
    """Plot how often each stage (a row) chose each option (a column), as a share of the stage's examples."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    shares = np.asarray(usage, dtype=float)
    shares /= shares.sum(1, keepdims=True)
    figure, axes = blank_plot("option", "stage")
    figure.set_size_inches(WIDTH, max(_HEIGHT, min(8.0, 1.0 + 0.12 * len(shares))))
    # From clear to blue, so that a page's own ground shows through, light or dark.
    colours = LinearSegmentedColormap.from_list("usage", [to_rgba(COLOURS[0], 0.0), to_rgba(COLOURS[0], 1.0)])
    drawn = axes.imshow(shares, aspect="auto", cmap=colours, vmin=0, interpolation="nearest")
    _add_cells(axes, shares)
    shown = sorted({0, len(shares) // 2, len(shares) - 1})
    axes.set_yticks(shown, [str(stage + 1) for stage in shown])
    axes.grid(False)
    bar = figure.colorbar(drawn, ax=axes)
    set_style(bar.ax, "", "share of examples")
    bar.ax.grid(False)
    bar.outline.set_edgecolor(INK)
    return figure


# ── written ──────────────────────────────────────────────────────────────────────────────────────


def write_plot(figure: Figure, path: Path) -> None:
    """Write a plot as its suffix says, png, svg or pdf, atomically. Raises: VqtkError if it cannot be written."""
    from matplotlib.collections import Collection

    figure.set_dpi(150)
    for points in figure.findobj(Collection):
        points.set_urls([None])  # On a page these are the values under the pointer; in a file they would be links.
    try:
        save_figure(figure, path, format=path.suffix[1:])
    except OSError as error:
        raise VqtkError(f"{path}: the plot cannot be written ({error}).") from None


# ── the style ────────────────────────────────────────────────────────────────────────────────────


def line_styles(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the line of each name is drawn."""
    return [
        {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
            "linewidth": 1.8,
            "label": name,
        }
        for index, name in enumerate(names)
    ]


def markers(points: int) -> dict[str, Any]:
    """Return how the points of a line are marked: not at all if they are many."""
    return {"marker": "o" if points < 40 else None, "markersize": 3}


def blank_plot(across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty plot with labelled axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    set_style(axes, across, up)
    return figure, axes


def set_style(axes: Axes, across: str, up: str) -> None:
    """Label axes and give them the colours of all plots."""
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    axes.grid(True, which="both", color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)


def _smoothed_line(axes: Axes, updates: Sequence[int], values: Sequence[float], style: dict[str, Any]) -> None:
    """Draw values faintly, and their running mean over a fiftieth of them; a single one as a point."""
    axes.plot(updates, values, color=style["color"], linewidth=0.6, alpha=0.35)
    width = max(1, len(values) // 50)
    sums = np.cumsum([0.0, *values])
    ends = np.minimum(np.arange(len(values)) + width, len(values))
    starts = np.maximum(np.arange(len(values)) - width, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    axes.plot(updates, means, **{"marker": "o" if len(updates) == 1 else None, "markersize": 3, **style})
    some = [round(place) for place in np.linspace(0, len(values) - 1, min(len(values), _MOST_VALUES))]
    points = [(updates[index], float(means[index])) for index in some]
    add_values(axes, points, [f"{style['label']}, update {x:,}: {y:.4g}" for x, y in points])


def add_values(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Add clear points (across, up) that show a text each under the pointer, once a page has made SVG of the plot."""
    if points:
        across, up = zip(*points, strict=True)
        axes.scatter(across, up, s=90, alpha=0, zorder=9, clip_on=False).set_urls([f"{HOVER}{text}" for text in texts])


def _add_cells(axes: Axes, shares: np.ndarray) -> None:
    """Add the same for the cells (stages, options) of code usage; of very many, for whole stages."""
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import AffineDeltaTransform

    stages, options = shares.shape
    if shares.size <= _MOST_CELLS:
        cells = [(option, stage) for stage in range(stages) for option in range(options)]
        texts = [f"stage {stage + 1}, option {option}: {shares[stage, option]:.2%}" for option, stage in cells]
    else:
        cells = [((options - 1) / 2, stage) for stage in range(stages)]
        texts = [f"stage {stage + 1}: {(row > 0).sum()} options used, at most {row.max():.2%} each"
                 for stage, row in enumerate(shares)]  # fmt: skip
    half = 0.5 if shares.size <= _MOST_CELLS else 0.5 * options
    corners = [(-half, -0.5), (half, -0.5), (half, 0.5), (-half, 0.5)]
    offset = AffineDeltaTransform(axes.transData)  # type: ignore[arg-type]
    drawn = PolyCollection([corners], offsets=cells, offset_transform=axes.transData, transform=offset, alpha=0)
    drawn.set(urls=[f"{HOVER}{text}" for text in texts], clip_on=False)
    axes.add_collection(drawn, autolim=False)


def maybe_logarithmic(axes: Axes, values: Sequence[float], *, factor: float = 10) -> None:
    """Make the axis logarithmic if all values are positive and span more than a factor."""
    from matplotlib.ticker import LogLocator

    if values and 0 < factor * min(values) < max(values):
        axes.set_yscale("log")
        decades = log10(max(values) / min(values))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5) if decades < 2 else (3,) if decades < 3 else ()))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """Put the names below the plot, where they cover nothing however many they are."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, min(4, int(60 / (4 + max(map(len, names))))))
    lines = -(-len(names) // columns) if columns > 1 else sum(name.count("\n") + 1 for name in names)
    figure.set_size_inches(WIDTH, _HEIGHT + 0.2 * lines)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
    return figure
