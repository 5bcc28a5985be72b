"""Draw points in the plane, and signals as lines; and make signals heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image, ImageDraw
from torch import Tensor

from vqtk.files import replacing
from vqtk.render.sheets import ImageSheet

if TYPE_CHECKING:  # Importing matplotlib takes long, and most commands draw no plot.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ITEM, SHOWN, MARK, FAINT = "#b3bcc3", "#1b4f72", "#e34a21", "#d5dbdf"
"""The colours of examples, of reconstructions and proposals, of the chosen one, and of the lines to the others."""
_DPI = 150
_ONE_IN = 6.0
_PANEL_IN = 2.8
_NUMBERED = 64
_MARGIN = 0.06


@dataclass(frozen=True, kw_only=True)
class PlotSheet(ImageSheet):
    """A plot: its figure, and the titles of its panels where it is drawn with labels."""

    figure: Figure
    panels: Sequence[str] = ()


def sample_plots(shown: Tensor, *, over: Tensor | None = None) -> PlotSheet:
    """Return a plot of samples (n, 2), over examples (n, 2) if they are given."""
    figure, (axes,) = blank(1, shown, over)
    if over is not None:
        dots(axes, over, ITEM, label="test examples")
    dots(axes, shown, SHOWN, label="samples")
    below = "" if over is None else f", over {len(over)} examples"
    return as_png(figure, f"{len(shown)} samples in the plane{below}")


def reconstruction_plots(targets: Tensor, shown: Tensor) -> PlotSheet:
    """Return a plot of examples (n, 2), each joined to its reconstruction (n, 2)."""
    figure, (axes,) = blank(1, targets, shown)
    _pairs(axes, targets, shown)
    return as_png(figure, f"{len(targets)} examples in the plane, each joined to its reconstruction")


def stage_plots(targets: Tensor, after: Tensor, *, panels: Sequence[str]) -> PlotSheet:
    """Return a panel for each stage: examples (n, 2), joined to their reconstructions after it, `after` (n, s, 2).

    `panels` are the titles of the panels where the plot is drawn with labels.
    """
    count = after.shape[1]
    figure, every = blank(count, targets, after.flatten(0, 1))
    for index, axes in enumerate(every):
        _pairs(axes, targets, after[:, index])
        axes.set_title(f"stage {index + 1}", fontsize=9)
    alt = f"{len(after)} examples in the plane, joined to their reconstructions after 1 to {count} stages"
    return as_png(figure, alt, panels=panels)


def proposal_plots(shown: Tensor, *, start: Tensor, target: Tensor, chosen: int, alt: str) -> PlotSheet:
    """Return a plot of proposals (k, 2), joined to the reconstruction (2,) that they change, the chosen one marked.

    The example itself (2,) is a cross.
    """
    figure, (axes,) = blank(1, shown, start[None], target[None])
    lines(axes, start.expand_as(shown), shown, colour=FAINT, width=0.8)
    lines(axes, start[None], shown[chosen, None], colour=MARK, width=1.6)
    dots(axes, start[None], ITEM, size=30, label="before the stage")
    dots(axes, shown, SHOWN, size=14, label="proposals")
    dots(axes, shown[chosen, None], MARK, size=36, label="chosen")
    x, y = target.tolist()
    axes.scatter([x], [y], marker="x", s=60, color="black", linewidths=1.6, zorder=4, label="test example")
    if len(shown) <= _NUMBERED:
        for option, place in enumerate(shown.tolist()):
            axes.annotate(str(option), place, xytext=(3, 3), textcoords="offset points", fontsize=6, color="#5d6d7e")
    return as_png(figure, alt)


def tree_plot(levels: Sequence[Tensor], taken: Sequence[Tensor], *, first: int, alt: str) -> PlotSheet:
    """Return a plot of a tree: for each level from the root on, the points (n, 2), joined to their parents.

    The points of a level are in the order of their parents; those that are not `taken` (n,) are not drawn. `first` is
    the stage of the first level below the root.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    figure, (axes,) = blank(1, *(level[some] for level, some in zip(levels, taken, strict=True)))
    depth = len(levels) - 1
    for level in range(depth, 0, -1):
        colour = to_hex(colormaps["viridis"](0.9 * (level - 1) / max(1, depth - 1)))
        parents = levels[level - 1].repeat_interleave(len(levels[1]), 0)[taken[level]]
        children = levels[level][taken[level]]
        order, thinner = 2 + 2 * (depth - level), 0.5 ** (level - 1)
        lines(axes, parents, children, colour=colour, width=2.4 * thinner, order=order)
        dots(axes, children, colour, size=44 * thinner**1.7 + 1.2, order=order + 1)
        axes.plot([], [], color=colour, marker="o", markersize=4, linewidth=1.6, label=f"stage {first + level - 1}")
    dots(axes, levels[0], "black", size=50, order=4 + 2 * depth)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)
    return as_png(figure, alt)


def blank(panels: int, *shown: Tensor | None) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with panels, four in a row, all of which cover the rectangle of all points (n, 2)."""
    from matplotlib.figure import Figure

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


def dots(
    axes: Axes, points: Tensor, colour: str, *, size: float | None = None, order: int = 3, label: str | None = None
) -> None:
    """Draw points (n, 2), smaller the more there are; `label` is what a legend calls them."""
    each = max(1.0, min(16.0, 4000 / len(points))) if size is None else size
    x, y = points.T.tolist()
    axes.scatter(x, y, s=each, color=colour, linewidths=0, zorder=order, label=label)


def lines(axes: Axes, starts: Tensor, ends: Tensor, *, colour: str, width: float, order: int = 2) -> None:
    """Draw a line from each start (n, 2) to its end (n, 2)."""
    from matplotlib.collections import LineCollection

    segments = torch.stack([starts, ends], 1).tolist()
    axes.add_collection(LineCollection(segments, colors=[colour], linewidths=[width], zorder=order))


def as_png(figure: Figure, alt: str, *, panels: Sequence[str] = ()) -> PlotSheet:
    """Return a figure as a sheet of pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    picture = rearrange(pixels, "(h w c) -> c h w", h=height, w=width)[:3]
    return PlotSheet(picture.float() / 255, alt, figure=figure, panels=panels)


def _pairs(axes: Axes, targets: Tensor, shown: Tensor) -> None:
    lines(axes, targets, shown, colour=MARK, width=max(0.3, min(1.2, 120 / len(targets))))
    dots(axes, targets, ITEM, label="test examples")
    dots(axes, shown, SHOWN, label="reconstructions")


WIDTH, HEIGHT = 160, 96
"""The size of an image of a signal in pixels; it is higher for more than three channels."""
_LANE, _HIGHEST = 32, 512
_FINE = 2
_LINE, _UNDER, _ZERO, _FRAME, _PAPER = "#1b4f72", "#b3bcc3", "#eceff1", "#c3cdd4", "#ffffff"
_SIGNAL_MARGIN = 0.08


def span_of(*signals: Tensor) -> Tensor:
    """Return the lowest and highest value of each channel of signals (n, c, t), with a margin: (2, c)."""
    every = torch.cat([_finite(one).transpose(0, 1).flatten(1) for one in signals], 1)
    low, high = every.min(1).values, every.max(1).values
    room = torch.where(high > low, (high - low) * _SIGNAL_MARGIN, 1.0)
    return torch.stack([low - room, high + room])


def render_signal(signals: Tensor, *, scale: Tensor, over: Tensor | None = None) -> Tensor:
    """Draw signals (n, c, t), over others of the same shape in grey → (n, 3, height, 160) in [0, 1].

    `scale` (2, c) holds the values at the lower and upper edge of each channel's lane.
    """
    height = min(max(HEIGHT, _LANE * signals.shape[1]), _HIGHEST)
    values = [None if one is None else _finite(one).numpy() for one in (over, signals)]
    drawn = []
    for index in range(len(signals)):
        shown = [(one[index], colour) for one, colour in zip(values, (_UNDER, _LINE), strict=True) if one is not None]
        drawn.append(_picture(shown, scale.numpy(), height))
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.empty(0, 3, height, WIDTH)


def _picture(shown: Sequence[tuple[np.ndarray, str]], scale: np.ndarray, height: int) -> np.ndarray:
    """Return signals (c, t) in their colours as one image (3, height, 160), the last one on top."""
    canvas = Image.new("RGB", (WIDTH * _FINE, height * _FINE), _PAPER)
    draw = ImageDraw.Draw(canvas)
    lane = canvas.height / scale.shape[1]
    for channel, (low, high) in enumerate(scale.T):

        def places(values: np.ndarray, low: float = low, high: float = high, channel: int = channel) -> np.ndarray:
            return (channel + 1 - np.clip((values - low) / (high - low), 0, 1)) * lane

        if low < 0 < high:
            zero = float(places(np.zeros(1))[0])
            draw.line([(0, zero), (canvas.width, zero)], fill=_ZERO, width=_FINE)
        for signal, colour in shown:
            line = _outline(signal[channel])
            # A single value is drawn as a horizontal line.
            across = np.linspace(0, canvas.width - 1, max(2, len(line)))
            down = places(line if len(line) > 1 else np.repeat(line, 2))
            draw.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=colour, width=_FINE)
    draw.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=_FRAME, width=_FINE)
    fine = np.asarray(canvas, dtype=np.float32) / 255
    return reduce(rearrange(fine, "h w c -> c h w"), "c (h fh) (w fw) -> c h w", "mean", fh=_FINE, fw=_FINE)


def _outline(values: np.ndarray) -> np.ndarray:
    """Return a line (t,) unchanged, or for more values than pixels the smallest and largest value of short parts."""
    if len(values) <= 4 * WIDTH:
        return values
    parts = np.array_split(values, 2 * WIDTH)
    return np.array([extreme for part in parts for extreme in (part.min(), part.max())])


def _finite(signals: Tensor) -> Tensor:
    """Return signals with 0 for values that are not finite, so that the others can be seen."""
    return torch.nan_to_num(signals.detach().double().cpu(), nan=0.0, posinf=0.0, neginf=0.0)


SILENCE_S = 0.25
"""Between two sounds of a sheet, in seconds."""


@dataclass(frozen=True)
class Sound:
    """Samples (t,) from -1 to 1, to be heard at a rate in Hz."""

    samples: Tensor
    rate: int

    def write(self, path: Path) -> None:
        """Write 16 bits per sample as .wav, replacing the file atomically. Raises: OSError."""
        from scipy.io import wavfile

        with replacing(path) as temporary:
            wavfile.write(temporary, self.rate, (self.samples.clamp(-1, 1) * 32_767).round().short().numpy())


def sound_of(*parts: Tensor, unit: float, rate: int) -> Sound:
    """Return sounds (n, 1, t) in training units one after another: the first of each part, then the second of each."""
    samples = torch.stack([part.detach().float().cpu() for part in parts], 1).flatten(0, 2) * unit
    return Sound(torch.nn.functional.pad(samples, (0, round(SILENCE_S * rate))).flatten(), rate)
