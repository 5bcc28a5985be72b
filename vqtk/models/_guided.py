"""Guided sampling: a decoding pass led by any score of the proposals, along several paths at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import tree_map

Score = Callable[[Tensor, Tensor], Tensor]
"""Proposals (p, k, *shape) and the indices (p,) of their examples → grid (p, k); lower is better."""
Noise = Callable[[int, int], Tensor]
"""A stage and a number of choices → Gumbel noise (n, answers, choices), zero for the answer that takes the best."""
_TINY = 1e-12


@dataclass(frozen=True)
class Guided:
    """Several answers for each of n examples.

    `codes` and `scores` (after each stage) are (n, answers, s), and `reconstruction` is (n, answers, *shape).
    """

    codes: Tensor
    scores: Tensor
    reconstruction: Tensor


@torch.no_grad()
def guided_walk(
    model: VQDraw, score: Score, n: int, *, answers: int, beam: int, stages: int, temperature: float, noise: Noise
) -> Guided:
    """Choose codes by a score instead of a target: the best options, or with noise options drawn by their scores.

    Each answer keeps `beam` paths and returns the best of them. An option is drawn with probability proportional to
    exp(-score / (temperature × gap)), where the gap is the difference between the mean and the best score: so a
    temperature means the same for every score and stage.

    Arguments:
        model: the model.
        score: scores proposals.
        n: the number of examples.
        answers: the number of answers for each example.
        beam: the number of paths for each answer.
        stages: the number of stages to choose.
        temperature: of the draws.
        noise: returns their Gumbel noise.
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
    """Return the indices that sort choices (g, c), perturbed by noise, from the best; ties keep their order."""
    best = choices.min(1, keepdim=True).values
    gap = (choices.mean(1, keepdim=True) - best).clamp(min=_TINY)
    return ((choices - best) / gap - temperature * drawn).sort(dim=1, stable=True).indices
