"""The walk through the stages led by any score of the proposals, along several paths at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import tree_map

Score = Callable[[Tensor, Tensor], Tensor]
"""Proposals (p, k, *shape) and the items (p,) that they are of → grid (p, k), lower is better."""
Noise = Callable[[int, int], Tensor]
"""A stage and a number of choices → Gumbel noise (n, answers, choices), zero for the answer that is the best one."""
_TINY = 1e-12


@dataclass(frozen=True)
class Guided:
    """Several answers for each of n items.

    `codes` and `scores`, those after each stage, are (n, answers, s), `reconstruction` is (n, answers, *shape).
    """

    codes: Tensor
    scores: Tensor
    reconstruction: Tensor


@torch.no_grad()
def guided_walk(
    model: VQDraw, score: Score, n: int, *, answers: int, beam: int, stages: int, temperature: float, noise: Noise
) -> Guided:
    """Choose codes by a score in place of a target: the best options, or with noise options drawn among the best.

    Each answer keeps `beam` paths, and is the best of them in the end. An option is drawn with a probability in
    proportion to exp(-score / (temperature × spread)); the spread is how far the mean option lies above the best, so
    that a temperature means the same for every score and stage.
    """
    groups = n * answers
    x, state = model.start(groups)
    path, scores = torch.empty(groups, 0, dtype=torch.int64, device=x.device), x.new_empty(groups, 0)
    for stage in range(stages):
        width = len(x) // groups
        deltas, carry = model.step(x, state, stage)
        proposals = x[:, None] + deltas
        grid = score(proposals, torch.arange(len(x), device=x.device) // (answers * width))
        choices = grid.reshape(groups, -1)
        drawn = noise(stage, choices.shape[1]).to(choices).flatten(0, 1)
        taken = _ranked(choices, drawn, temperature)[:, :beam]
        parent = (taken // model.options + torch.arange(groups, device=x.device)[:, None] * width).flatten()
        codes = (taken % model.options).flatten()
        x = proposals[parent, codes]
        carry = tree_map(partial(torch.index_select, dim=0, index=parent), carry)
        state = model.advance(stage, carry, codes, x)
        path = torch.cat([path[parent], codes[:, None]], 1)
        scores = torch.cat([scores[parent], grid[parent, codes][:, None]], 1)
    best = scores[:, -1].reshape(groups, -1).argmin(1)
    rows = best + torch.arange(groups, device=x.device) * (len(x) // groups)
    return Guided(*(value[rows].unflatten(0, (n, answers)) for value in (path, scores, x)))


def _ranked(choices: Tensor, drawn: Tensor, temperature: float) -> Tensor:
    """Return the indices of choices (g, c), the best first; of equal ones the first."""
    best = choices.min(1, keepdim=True).values
    spread = (choices.mean(1, keepdim=True) - best).clamp(min=_TINY)
    return ((choices - best) / spread - temperature * drawn).sort(dim=1, stable=True).indices
