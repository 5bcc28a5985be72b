"""The algorithm as the paper writes it: what the core is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vqtk.models import Walk
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.state import State, repeat_batch


def textbook_walk(model: VQDraw, target: Tensor, *, segment: int | None = None) -> Walk:
    """Walk as the paper writes it: every proposal materialised, the best one indexed, gradients by autograd alone."""
    x, state = (repeat_batch(value, len(target)) for value in model._start(1))
    x = x.contiguous()
    grids, path = [], []
    for first in range(0, model.stages, segment or model.stages):
        stages = range(first, min(first + (segment or model.stages), model.stages))
        if segment and torch.is_grad_enabled():
            x, state, grid, codes = checkpoint(_textbook_stages, model, target, stages, x, state, use_reentrant=False)
        else:
            x, state, grid, codes = _textbook_stages(model, target, stages, x, state)
        grids.append(grid)
        path.append(codes)
    return Walk(torch.cat(grids, 1), torch.cat(path, 1), x, state)


def _textbook_stages(
    model: VQDraw, target: Tensor, stages: Sequence[int], x: Tensor, state: State
) -> tuple[Tensor, State, Tensor, Tensor]:
    grids, path = [], []
    for stage in stages:
        deltas, carry = model.step(x, state, stage)
        proposals = x[:, None] + deltas
        grid = model.loss(proposals, target)
        codes = grid.argmin(1)
        x = proposals[torch.arange(len(codes), device=codes.device), codes]
        state = model.advance(stage, carry, codes, x)
        grids.append(grid)
        path.append(codes)
    return x, state, torch.stack(grids, 1), torch.stack(path, 1)


def textbook_decode(model: VQDraw, codes: Tensor) -> Tensor:
    """Decode by computing all proposals of each stage and taking the one that the code names."""
    x, state = (repeat_batch(value, len(codes)) for value in model._start(1))
    for stage, chosen in enumerate(codes.unbind(1)):
        deltas, carry = model.step(x, state, stage)
        x = (x[:, None] + deltas)[torch.arange(len(chosen), device=chosen.device), chosen]
        state = model.advance(stage, carry, chosen, x)
    return x
