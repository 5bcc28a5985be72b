"""Beam search: several codes are kept at every stage, and the best of them at the end."""

from __future__ import annotations

from functools import partial
from math import prod
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqtk.nn.stage import State, leaves_of, tree_map, with_leaves
from vqtk.nn.types import Count
from vqtk.registry import searches

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw

MOST_VALUES = 1 << 28
"""Values that the deltas of all distinct prefixes hold at most; more examples are searched for in several parts."""
MOST_AT_ONCE = 1024
"""Examples that are encoded together at most."""
AT_ONCE = 1 << 21
"""Values of deltas that are computed at a time: on a CPU they should fit its cache."""


@searches.register("beam", example={"width": 2})
class Beam:
    """The `width` best prefixes after each stage, among all options of those kept before; exact.

    Examples that share a prefix share its deltas: after the first stage there are no more than `options` different
    reconstructions, whatever the number of examples and the width. So the first stages cost little, and encoding many
    examples at once costs less than encoding few.

    Shapes: target (n, *data shape) → codes (n, stages).
    Source: Sutskever et al. 2014, arXiv 1409.3215; for residual codes, Babenko and Lempitsky 2014.
    """

    def __init__(self, *, width: Count = 8):
        self.width = width

    @torch.no_grad()
    def __call__(self, model: VQDraw, target: Tensor) -> Tensor:
        """Encode."""
        return self.candidates(model, target)[:, 0]

    @torch.no_grad()
    def candidates(self, model: VQDraw, target: Tensor) -> Tensor:
        """Return the best codes found, best first: target (n, *data shape) → (n, w, stages), w ≤ width."""
        parts = target.split(self.examples_at_once(model))
        return torch.cat([self._searched(model, part) for part in parts])

    def examples_at_once(self, model: VQDraw) -> int:
        """Return how many examples are encoded together; more share more prefixes, and take more memory."""
        each = self.width * model.options * prod(model.loss.shape)
        return min(MOST_AT_ONCE, max(1, MOST_VALUES // each))

    def _searched(self, model: VQDraw, target: Tensor) -> Tensor:
        n, k = len(target), model.options
        x, state = model.start(1)
        kept = torch.zeros(n, 1, dtype=torch.int64, device=target.device)  # Of each example, rows of x.
        codes = kept.new_empty(n, 1, 0)
        for stage in range(model.stages):
            deltas, carry = _proposed(model, x, state, stage)
            grid = _scored(model, x, deltas, target, kept).flatten(1)  # (n, kept · k)
            best = grid.sort(dim=1, stable=True).indices[:, : self.width]
            beam, option = best // k, best % k
            distinct, kept = torch.unique(kept.gather(1, beam) * k + option, return_inverse=True)
            row, chosen = distinct // k, distinct % k
            x = x[row] + deltas[row, chosen]
            if model.stateful:
                carry = tree_map(partial(torch.index_select, dim=0, index=row), carry)
                state = model.advance(stage, carry, chosen, x)
            codes = torch.cat([codes[torch.arange(n, device=codes.device)[:, None], beam], option[..., None]], 2)
        return codes


def _proposed(model: VQDraw, x: Tensor, state: State, stage: int) -> tuple[Tensor, State]:
    """Return the deltas of every reconstruction (u, k, *shape), and what the refiner carries on, part by part."""
    size = _rows_at_once(model)
    deltas, carries = x.new_empty(len(x), model.options, *model.loss.shape), []
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        deltas[rows], carry = model.step(x[rows], tree_map(itemgetter(rows), state), stage)
        carries.append(carry)
    joined = [torch.cat(leaves) for leaves in zip(*map(leaves_of, carries), strict=True)]
    return deltas, with_leaves(carries[0], joined)


def _scored(model: VQDraw, x: Tensor, deltas: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Return the loss of every option of every prefix kept: kept (n, w), rows of x and deltas → (n, w, k)."""
    if len(x) == 1:
        return model.loss.grid(x, deltas, target)[:, None]
    examples = torch.arange(len(target), device=target.device).repeat_interleave(kept.shape[1])
    size = _rows_at_once(model)
    parts = zip(kept.flatten().split(size), examples.split(size), strict=True)
    return torch.cat([model.loss.grid(x[row], deltas[row], target[one]) for row, one in parts]).unflatten(0, kept.shape)


def _rows_at_once(model: VQDraw) -> int:
    return max(1, AT_ONCE // (model.options * prod(model.loss.shape)))
