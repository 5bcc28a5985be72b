"""Grids of pictures: samples, reconstructions, stages, proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.io.atomic import replacing

GAP = 2
_PAPER = 1.0
_FRAME = (0.89, 0.29, 0.13)


def to_pictures(model: Any, x: Tensor) -> Tensor:
    """Return reconstructions (n, *shape) as RGB or grey pictures (n, c, h, w) in [0, 1].

    Raises: VqtkError if the data are not images.
    """
    return data_to_pictures(model, model.loss.show(x))


def data_to_pictures(model: Any, data: Tensor) -> Tensor:
    """Return data in training units (n, c, h, w) as pictures in [0, 1]. Raises: VqtkError if they are not images."""
    if model.data.kind != "image":
        raise VqtkError(f"this model's data are {model.data.kind}; only images can be drawn as pictures so far.")
    return model.data.pixels(data.detach().float().cpu())


def grid(pictures: Tensor, columns: int, *, framed: set[int] | frozenset[int] = frozenset()) -> Tensor:
    """Lay pictures (n, c, h, w) out in rows: → (3, height, width) in [0, 1]; those framed get a coloured border."""
    pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
    n, _, h, w = pictures.shape
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
    """Lay out a column an image and a row a stage: after (n, s, c, h, w); the targets (n, c, h, w) come last."""
    rows = rearrange(torch.cat([after, targets[:, None]], 1), "n s c h w -> (s n) c h w")
    return grid(rows, columns=len(targets))


def pairs(targets: Tensor, reconstructions: Tensor, columns: int) -> Tensor:
    """Lay out targets with their reconstructions below them, in double rows of `columns`."""
    rows = []
    for start in range(0, len(targets), columns):
        rows += [_filled(part[start : start + columns], columns) for part in (targets, reconstructions)]
    return grid(torch.cat(rows), columns=columns)


def _filled(row: Tensor, columns: int) -> Tensor:
    return torch.cat([row, torch.full((columns - len(row), *row.shape[1:]), _PAPER)])


def enlarged(sheet: Tensor, scale: int | None = None) -> Image.Image:
    """Return a sheet (3, h, w) as an image, each pixel `scale` squared; by default so that it is easily seen."""
    factor = scale or max(1, 640 // sheet.shape[2])
    image = Image.fromarray((rearrange(sheet, "c h w -> h w c").numpy() * 255).round().astype(np.uint8))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def write_png(sheet: Tensor, path: Path, *, scale: int | None = None) -> None:
    """Write a sheet as PNG, replacing the file whole. Raises: VqtkError if it cannot be written."""
    try:
        with replacing(path) as temporary:
            enlarged(sheet, scale).save(temporary, format="PNG")
    except OSError as error:
        raise VqtkError(f"{path}: the picture cannot be written ({error}). Choose another path with -o.") from None
