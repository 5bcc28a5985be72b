"""Beam search in which a cheap guess pre-selects the options whose deltas are computed."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqtk.nn.stage import State, repeat_batch, tree_map
from vqtk.nn.types import Count
from vqtk.registry import searches
from vqtk.searches.beam import at_once

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw


@searches.register("preselect", example={"candidates": 2, "width": 2})
class Preselect:
    """The `width` best codes are kept at each stage, and only `candidates` options of each are computed exactly.

    A refiner's `guess` ranks the options: for `qinco`, the codewords without the network. Of a refiner that cannot
    guess, all deltas are computed, and the search is a beam search over the candidates. With as many candidates as
    options it is the exact beam search of that width.

    Shapes: target (n, *data shape) → codes (n, stages).
    Source: Vallaeys et al. 2025, QINCo2, arXiv 2501.03078: candidate pre-selection and beam search.
    """

    def __init__(self, *, candidates: Count = 16, width: Count = 1):
        self.candidates, self.width = candidates, width

    @torch.no_grad()
    def __call__(self, model: VQDraw, target: Tensor) -> Tensor:
        """Encode."""
        return torch.cat([self._searched(model, part) for part in target.split(self.examples_at_once(model))])

    def examples_at_once(self, model: VQDraw) -> int:
        """Return how many examples are encoded together."""
        computed = max(self.candidates, model.options // 8) * self.width * prod(model.loss.shape)
        return max(1, 2 * at_once(model.device) // computed)

    @torch.no_grad()
    def recall(self, model: VQDraw, target: Tensor) -> float:
        """Return how often the candidates of a stage contain its best option, along the greedy codes of a target."""
        x, state = model.start(1)
        found = 0.0
        for stage in range(model.stages):
            walk = model.walk(target, stages=[stage], start=(x, state))
            found += (self._candidates(model, x, state, stage, target) == walk.codes).any(1).double().mean().item()
            x, state = walk.reconstruction, walk.state
        return found / model.stages

    def _candidates(self, model: VQDraw, x: Tensor, state: State, stage: int, target: Tensor) -> Tensor:
        """Return the options of the smallest guessed losses, in their order: (n, candidates)."""
        guessed = model.guess(x, state, stage)
        many = min(self.candidates, model.options)
        return model.loss.grid(x, guessed, target).topk(many, largest=False).indices.sort(1).values

    def _searched(self, model: VQDraw, target: Tensor) -> Tensor:
        n, x, state = len(target), *model.start(len(target))
        codes = torch.empty(n, 0, dtype=torch.int64, device=target.device)  # Of each kept code a row, n · width in all.
        many = min(self.candidates, model.options)
        for stage in range(model.stages):
            kept = len(x) // n
            aims = target.repeat_interleave(kept, 0)
            options = self._candidates(model, x, state, stage, aims)
            deltas, carry = model.step(x, state, stage, options)  # (n · kept, many, *shape)
            grid = model.loss.grid(x, deltas, aims).view(n, kept * many)
            best = grid.sort(dim=1, stable=True).indices[:, : self.width]
            row = (best // many + kept * torch.arange(n, device=best.device)[:, None]).flatten()
            place = (best % many).flatten()
            chosen = options[row, place]
            x = x[row] + deltas[row, place]
            if model.stateful:
                carry = tree_map(partial(torch.index_select, dim=0, index=row), repeat_batch(carry, len(aims)))
                state = model.advance(stage, carry, chosen, x)
            codes = torch.cat([codes[row], chosen[:, None]], 1)
        return codes[:: len(codes) // n]
