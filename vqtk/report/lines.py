"""Signals and vectors drawn as lines over time or index: a lane a channel, on a scale that a sheet shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image, ImageDraw
from torch import Tensor

WIDTH, HEIGHT = 160, 96
"""Pixels of a picture; of more than three channels it is higher."""
_LANE, _HIGHEST = 32, 512
_FINE = 2
_LINE, _UNDER, _ZERO, _FRAME, _PAPER = "#1b4f72", "#b3bcc3", "#eceff1", "#c3cdd4", "#ffffff"
_MARGIN = 0.08


def span(*signals: Tensor) -> Tensor:
    """Return the lowest and highest value of each channel of signals (n, c, t), widened a little: (2, c)."""
    every = torch.cat([_finite(one).transpose(0, 1).flatten(1) for one in signals], 1)
    low, high = every.min(1).values, every.max(1).values
    room = torch.where(high > low, (high - low) * _MARGIN, 1.0)
    return torch.stack([low - room, high + room])


def render(signals: Tensor, *, scale: Tensor, over: Tensor | None = None) -> Tensor:
    """Draw signals (n, c, t), over others of that shape in grey → (n, 3, height, 160) in [0, 1].

    `scale` (2, c) is the value at the lower and at the upper edge of each channel's lane.
    """
    height = min(max(HEIGHT, _LANE * signals.shape[1]), _HIGHEST)
    values = [None if one is None else _finite(one).numpy() for one in (over, signals)]
    drawn = []
    for index in range(len(signals)):
        shown = [(one[index], colour) for one, colour in zip(values, (_UNDER, _LINE), strict=True) if one is not None]
        drawn.append(_picture(shown, scale.numpy(), height))
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.empty(0, 3, height, WIDTH)


def _picture(shown: Sequence[tuple[np.ndarray, str]], scale: np.ndarray, height: int) -> np.ndarray:
    """Return signals (c, t) with their colours as one picture (3, height, 160), the last one uppermost."""
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
            # A single value is a level.
            across = np.linspace(0, canvas.width - 1, max(2, len(line)))
            down = places(line if len(line) > 1 else np.repeat(line, 2))
            draw.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=colour, width=_FINE)
    draw.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=_FRAME, width=_FINE)
    fine = np.asarray(canvas, dtype=np.float32) / 255
    return reduce(rearrange(fine, "h w c -> c h w"), "c (h fh) (w fw) -> c h w", "mean", fh=_FINE, fw=_FINE)


def _outline(values: np.ndarray) -> np.ndarray:
    """Return a line (t,) as it is, or, of more values than can be seen, the least and greatest of short parts."""
    if len(values) <= 4 * WIDTH:
        return values
    parts = np.array_split(values, 2 * WIDTH)
    return np.array([extreme for part in parts for extreme in (part.min(), part.max())])


def _finite(signals: Tensor) -> Tensor:
    """Return signals with 0 for what is no finite number, so that the others are seen."""
    return torch.nan_to_num(signals.detach().double().cpu(), nan=0.0, posinf=0.0, neginf=0.0)
