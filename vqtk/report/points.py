"""Points of the plane as scatter plots: samples, items with their reconstructions, stages, proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from vqtk.report.sheet import ImageSheet

ITEM, SHOWN, MARK, FAINT = "#b3bcc3", "#1b4f72", "#e34a21", "#d5dbdf"
"""The colours of items, of what a model makes of them, of what is chosen, and of lines between the two."""
_TREE = colormaps["viridis"]
_DPI = 150
_ONE_IN = 6.0
_PANEL_IN = 2.8
_NUMBERED = 64
_MARGIN = 0.06


def samples(shown: Tensor, *, over: Tensor | None = None) -> ImageSheet:
    """Return samples (n, 2), over items (n, 2) where they are given."""
    figure, (axes,) = blank(1, shown, over)
    if over is not None:
        dots(axes, over, ITEM)
    dots(axes, shown, SHOWN)
    return drawn(figure, f"{len(shown)} samples in the plane" + ("" if over is None else f", over {len(over)} items"))


def reconstructions(targets: Tensor, shown: Tensor) -> ImageSheet:
    """Return items (n, 2), and lines from each to its reconstruction (n, 2)."""
    figure, (axes,) = blank(1, targets, shown)
    _pairs(axes, targets, shown)
    return drawn(figure, f"{len(targets)} items in the plane, each joined to its reconstruction")


def stages(targets: Tensor, after: Tensor) -> ImageSheet:
    """Return a panel a stage: items (n, 2), joined to what is reached after it, after (n, s, 2)."""
    count = after.shape[1]
    figure, panels = blank(count, targets, after.flatten(0, 1))
    for index, axes in enumerate(panels):
        _pairs(axes, targets, after[:, index])
        axes.set_title(f"stage {index + 1}", fontsize=9)
    return drawn(figure, f"{len(after)} items in the plane, joined to their reconstructions after 1 to {count} stages")


def proposals(shown: Tensor, *, start: Tensor, target: Tensor, chosen: int, alt: str) -> ImageSheet:
    """Return options (k, 2) as points, joined to the reconstruction (2,) that they start from, the chosen one marked.

    The item itself (2,) is a cross.
    """
    figure, (axes,) = blank(1, shown, start[None], target[None])
    lines(axes, start.expand_as(shown), shown, colour=FAINT, width=0.8)
    lines(axes, start[None], shown[chosen, None], colour=MARK, width=1.6)
    dots(axes, start[None], ITEM, size=30)
    dots(axes, shown, SHOWN, size=14)
    dots(axes, shown[chosen, None], MARK, size=36)
    axes.scatter([float(target[0])], [float(target[1])], marker="x", s=60, color="black", linewidths=1.6, zorder=4)
    if len(shown) <= _NUMBERED:
        for option, place in enumerate(shown.tolist()):
            axes.annotate(str(option), place, xytext=(3, 3), textcoords="offset points", fontsize=6, color="#5d6d7e")
    return drawn(figure, alt)


def tree(levels: Sequence[Tensor], taken: Sequence[Tensor], *, first: int, alt: str) -> ImageSheet:
    """Return a tree in the plane: of each level from the root on, the points (n, 2), joined to their parents.

    Children stand side by side, in the order of their parents; those whose places (n,) are not `taken` are not drawn.
    `first` is the stage of the first level below the root.
    """
    figure, (axes,) = blank(1, *(level[some] for level, some in zip(levels, taken, strict=True)))
    depth = len(levels) - 1
    for level in range(depth, 0, -1):
        colour = to_hex(_TREE(0.9 * (level - 1) / max(1, depth - 1)))
        parents = levels[level - 1].repeat_interleave(len(levels[1]), 0)[taken[level]]
        children = levels[level][taken[level]]
        order, thinner = 2 + 2 * (depth - level), 0.5 ** (level - 1)
        lines(axes, parents, children, colour=colour, width=2.4 * thinner, order=order)
        dots(axes, children, colour, size=44 * thinner**1.7 + 1.2, order=order + 1)
        axes.plot([], [], color=colour, marker="o", markersize=4, linewidth=1.6, label=f"stage {first + level - 1}")
    dots(axes, levels[0], "black", size=50, order=4 + 2 * depth)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)
    return drawn(figure, alt)


def blank(panels: int, *shown: Tensor | None) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, four in a row; all show the rectangle that holds all points (n, 2)."""
    every = torch.cat([points for points in shown if points is not None])
    low, high = every.min(0).values, every.max(0).values
    reach = (high - low).clamp(min=float((high - low).max()) * 0.4 or 1.0) * (0.5 + _MARGIN)
    (left, bottom), (right, top) = ((low + high) / 2 - reach).tolist(), ((low + high) / 2 + reach).tolist()
    columns = min(4, panels)
    rows, width = -(-panels // columns), _ONE_IN if panels == 1 else _PANEL_IN
    height = width * float(reach[1] / reach[0]) + (0 if panels == 1 else 0.2)
    figure = Figure(figsize=(columns * width, rows * height), dpi=_DPI, layout="constrained")
    made = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in made[panels:]:
        axes.set_axis_off()
    for axes in made[:panels]:
        axes.set(xticks=[], yticks=[], aspect="equal", xlim=(left, right), ylim=(bottom, top))
        for spine in axes.spines.values():
            spine.set(color="#dde3e8")
    return figure, made[:panels]


def dots(axes: Axes, points: Tensor, colour: str, *, size: float | None = None, order: int = 3) -> None:
    """Draw points (n, 2), smaller where they are many."""
    each = max(1.0, min(16.0, 4000 / len(points))) if size is None else size
    x, y = points.T.tolist()
    axes.scatter(x, y, s=each, color=colour, linewidths=0, zorder=order)


def lines(axes: Axes, starts: Tensor, ends: Tensor, *, colour: str, width: float, order: int = 2) -> None:
    """Draw a line from each start (n, 2) to its end (n, 2)."""
    segments = torch.stack([starts, ends], 1).tolist()
    axes.add_collection(LineCollection(segments, colors=[colour], linewidths=[width], zorder=order))


def drawn(figure: Figure, alt: str) -> ImageSheet:
    """Return a figure as a sheet, drawn once, pixel by pixel."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    picture = rearrange(pixels, "(h w c) -> c h w", h=height, w=width)[:3]
    return ImageSheet(picture.float() / 255, alt)


def _pairs(axes: Axes, targets: Tensor, shown: Tensor) -> None:
    lines(axes, targets, shown, colour=MARK, width=max(0.3, min(1.2, 120 / len(targets))))
    dots(axes, targets, ITEM)
    dots(axes, shown, SHOWN)
