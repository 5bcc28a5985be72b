"""Codes improved one stage at a time, the others held fixed."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqtk.nn.stage import repeat_batch, tree_map
from vqtk.nn.types import Count
from vqtk.registry import SearchFactory, searches
from vqtk.searches.beam import at_once

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw


@searches.register("polish", example={"tries": 2})
class Polish:
    """Coordinate descent over the codes that another search found: no code becomes worse.

    At each stage in turn the `tries` options of the smallest loss there take the code's place; the later codes stay,
    and what decodes to the smallest loss is kept. `sweeps` times from the first stage to the last.

    Shapes: target (n, *data shape) → codes (n, stages).
    Source: coordinate descent; for additive codes, iterated conditional modes, Besag 1986.
    """

    def __init__(self, *, after: SearchFactory, tries: Count = 8, sweeps: Count = 1):
        self.after, self.tries, self.sweeps = after(), tries, sweeps

    @torch.no_grad()
    def __call__(self, model: VQDraw, target: Tensor) -> Tensor:
        """Encode."""
        codes = self.after(model, target)
        size = max(1, at_once(model.device) // (model.options * prod(model.loss.shape)))
        for _ in range(self.sweeps):
            parts = zip(codes.split(size), target.split(size), strict=True)
            codes = torch.cat([self._swept(model, *part) for part in parts])
        return codes

    def _swept(self, model: VQDraw, codes: Tensor, target: Tensor) -> Tensor:
        n = len(target)
        codes, index = codes.clone(), torch.arange(n, device=target.device)
        x, state = model.start(n)
        for stage in range(model.stages):
            deltas, carry = model.step(x, state, stage)
            grid = model.loss.grid(x, deltas, target)
            tried = grid.scatter(1, codes[:, stage : stage + 1], -torch.inf)  # The code itself comes first.
            tried = tried.sort(dim=1, stable=True).indices[:, : 1 + self.tries]  # (n, m)
            losses = self._outcomes(model, x, deltas, carry, codes, target, tried, stage)
            chosen = tried[index, losses.argmin(1)]  # Of equal ones the first: the code stays unless one is better.
            codes[:, stage] = chosen
            x = x + deltas[index, chosen]
            state = model.advance(stage, carry, chosen, x) if model.stateful else None
        return codes

    @staticmethod
    def _outcomes(
        model: VQDraw,
        x: Tensor,
        deltas: Tensor,
        carry: object,
        codes: Tensor,
        target: Tensor,
        tried: Tensor,
        stage: int,
    ) -> Tensor:
        """Return the loss in the end (n, m) if a stage took each of the options tried (n, m), the later codes fixed."""
        n, m = tried.shape
        rows = torch.arange(n, device=target.device).repeat_interleave(m)
        x = x[rows] + deltas[rows, tried.flatten()]
        carry = tree_map(lambda value: value[rows], repeat_batch(carry, n))
        state = model.advance(stage, carry, tried.flatten(), x) if model.stateful else None
        for later in range(stage + 1, model.stages):
            chosen = codes[rows, later]
            delta, carry = model.step(x, state, later, chosen)
            x = x + delta
            state = model.advance(later, carry, chosen, x) if model.stateful else None
        return model.loss(x.unflatten(0, (n, m)), target)
