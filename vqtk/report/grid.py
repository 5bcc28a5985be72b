"""Pictures laid out in rows: samples, items with their reconstructions, stages, proposals."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

GAP = 2
_PAPER = 1.0
_FRAME = (0.89, 0.29, 0.13)


def grid(pictures: Tensor, columns: int, *, framed: set[int] | frozenset[int] = frozenset()) -> Tensor:
    """Lay pictures (n, c, h, w) out in rows: → (3, height, width) in [0, 1]; those framed get a coloured border."""
    pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
    n, _, h, w = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.full((3, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), _PAPER)
    for index, picture in enumerate(pictures):
        top = GAP + (index // columns) * (h + GAP)
        left = GAP + (index % columns) * (w + GAP)
        if index in framed:
            colour = torch.tensor(_FRAME)[:, None, None]
            sheet[:, top - GAP : top + h + GAP, left - GAP : left + w + GAP] = colour
        sheet[:, top : top + h, left : left + w] = picture
    return sheet


def stage_strip(targets: Tensor, after: Tensor) -> Tensor:
    """Lay out a column an item and a row a stage: after (n, s, c, h, w); the targets (n, c, h, w) come last."""
    rows = rearrange(torch.cat([after, targets[:, None]], 1), "n s c h w -> (s n) c h w")
    return grid(rows, columns=len(targets))


def pairs(targets: Tensor, reconstructions: Tensor, columns: int) -> Tensor:
    """Lay out targets with their reconstructions below them, in double rows of `columns`."""
    rows, columns = [], min(columns, len(targets))
    for start in range(0, len(targets), columns):
        rows += [_filled(part[start : start + columns], columns) for part in (targets, reconstructions)]
    return grid(torch.cat(rows), columns=columns)


def _filled(row: Tensor, columns: int) -> Tensor:
    return torch.cat([row, torch.full((columns - len(row), *row.shape[1:]), _PAPER)])
