"""Plots of figures, as matplotlib figures without global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from vqtk.errors import VqtkError
from vqtk.io.atomic import replacing

INK = "#1b4f72"
REFERENCES = {"kmeans": ("#b9770e", "-"), "gaussian": ("#7d8a93", "--")}
"""How the references are drawn: colour and line."""


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


def rate_distortion_figure(
    rows: Sequence[dict[str, Any]],
    kind: Literal["image", "text", "voxels", "points", "signals"],
    *,
    references: dict[str, Any] | None = None,
    loss: str | None = None,
) -> Figure:
    """Return a plot of distortion over rate, a point a stage, from the rows of `Evaluation.stages`.

    Images show the error of pixels, points their distance, and signals their error, on a logarithmic axis; text nats
    per token; voxels intersection over union. Stages without a reconstruction are left out. `references`, as
    `References.plain` has them, are drawn beside errors of pixels, and beside the loss where it is `mse`.
    """
    axis = _DISTORTION[kind]
    if axis.key not in rows[0]:
        axis = _Axis("distortion", "distortion (loss)", kind in ("image", "points", "signals"))
    points = [(row["bits"], row[axis.key]) for row in rows if row[axis.key] is not None]
    error = {"mse_pixels": "mse_pixels", "distortion": "mse" if loss == "mse" else None}.get(axis.key)
    compared = references if references and error else None
    figure = Figure(figsize=(5.6, 4.6 if compared else 3.6), layout="constrained")
    axes = figure.add_subplot()
    size = 4 if len(points) < 40 else 2
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.5, marker="o", markersize=size, label="the model")
    if compared:
        _draw(axes, compared, str(error))
    if axis.logarithmic and min(value for _, value in points) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("rate (bits per item)")
    axes.set_ylabel(axis.label)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw(axes: Axes, references: dict[str, Any], error: str) -> None:
    """Draw the references as lines, and a legend below the axes."""
    for name, (colour, line) in REFERENCES.items():
        curve = references[name]
        points = [(point["bits"], point[error]) for point in curve["stages"]]
        label = fill(curve["label"], 60)
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, linestyle=line, label=label)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, replacing the file whole. Raises: VqtkError if it cannot be written."""
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    except OSError as error:
        raise VqtkError(f"{path}: the plot cannot be written ({error}).") from None
