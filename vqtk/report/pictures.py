"""The pictures of a model: what each shows, as a sheet ready to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.report.grid import data_to_pictures, grid, pairs, stage_strip, to_pictures, write_png


@torch.no_grad()
def samples(model: Any, *, count: int = 64, seed: int = 0, stages: int | None = None, columns: int = 8) -> Tensor:
    """Return a grid of reconstructions of uniformly drawn codes, or of their first `stages`."""
    x = model.sample(count, generator=torch.Generator().manual_seed(seed), stages=stages)
    return grid(to_pictures(model, x), columns)


@torch.no_grad()
def reconstructions(model: Any, targets: Tensor, *, columns: int = 8) -> Tensor:
    """Return targets (n, c, h, w) in training units with their reconstructions below them."""
    x = model.decode(model.encode(targets))
    return pairs(data_to_pictures(model, targets), to_pictures(model, x), columns)


@torch.no_grad()
def stages(model: Any, targets: Tensor) -> Tensor:
    """Return one column a target and one row a stage, the targets (n, c, h, w) in the last row."""
    after = model.decode_stages(model.encode(targets))
    shown = torch.stack([to_pictures(model, column) for column in after])
    return stage_strip(data_to_pictures(model, targets), shown)


@torch.no_grad()
def proposals(model: Any, target: Tensor, *, stage: int, columns: int = 8) -> tuple[Tensor, int]:
    """Return what a stage proposes for a target (c, h, w), the chosen option framed, and that option."""
    codes = model.encode(target[None])
    chosen = int(codes[0, stage])
    proposed = model.proposals(codes[:, :stage])[0]
    return grid(to_pictures(model, proposed), columns, framed={chosen}), chosen


def write_all(model: Any, targets: Tensor, folder: Path, update: int) -> None:
    """Write a run's samples, reconstructions and stage strip, with the update in their names."""
    model.eval()
    write_png(samples(model), folder / f"samples_{update:08d}.png")
    write_png(reconstructions(model, targets[:32]), folder / f"reconstructions_{update:08d}.png")
    write_png(stages(model, targets[:10]), folder / f"stages_{update:08d}.png")
