"""Beam search: several codes are kept at every stage, and the best of them at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqtk.heads import Factors
from vqtk.nn.stage import State, leaves_of, tree_map, with_leaves
from vqtk.nn.types import Count
from vqtk.registry import searches

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw

MOST_VALUES = 1 << 28
"""The most values held at a time: of the deltas of shared prefixes, or of all reconstructions."""
MOST_EXAMPLES = 1 << 14
"""Examples that are encoded together at most."""
AT_ONCE = 1 << 21
"""The values of deltas that a CPU computes at a time; they should fit into its cache."""
DEVICE_TIMES = 64
"""How many times as many another device computes at a time, to be busy for longer than it takes to ask for them."""
_OF_FACTORS = 16
"""Scoring a prefix by factors takes about this many times the values of a reconstruction."""


def at_once(device: torch.device) -> int:
    """Return how many values of deltas a device computes at a time."""
    return AT_ONCE if device.type == "cpu" else DEVICE_TIMES * AT_ONCE


@searches.register("beam", example={"width": 2})
class Beam:
    """Keeps the `width` best prefixes after each stage, among all options of the prefixes kept before.

    Examples that share a prefix share its deltas: after the first stage there are no more than `options` different
    reconstructions, and after the second no more than their square, whatever the number of examples and the width. So
    encoding many examples at once costs less than encoding few.

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
        each = max(self.width, model.stages) * prod(model.loss.shape)
        return min(MOST_EXAMPLES, max(1, MOST_VALUES // each))

    def _searched(self, model: VQDraw, target: Tensor) -> Tensor:
        # Before the first stage, all examples share one prefix, the empty code.
        empty = torch.zeros(len(target), 1, 0, dtype=torch.int64, device=target.device)
        kept = _Kept(empty, empty.new_zeros(len(target), 1), *model.start(1))
        for stage in range(model.stages):
            parts = self._parts(model, stage, kept)
            order = torch.cat(parts).argsort()  # Back to the order of the targets.
            kept = _joined([self._stage(model, stage, target[part], kept.of(part)) for part in parts], order)
        return kept.codes

    def _parts(self, model: VQDraw, stage: int, kept: _Kept) -> list[Tensor]:
        """Return the examples whose next stage is searched together: all, if they share prefixes and memory suffices.

        Otherwise, examples with equal or similar best prefixes are searched together, as many as fit into a cache with
        their deltas.
        """
        each = _values_of_each(model, stage, len(kept.x))
        if len(kept.x) * each <= MOST_VALUES and 2 * len(kept.x) <= kept.rows.numel():
            return [torch.arange(len(kept.rows), device=kept.rows.device)]
        return list(kept.rows[:, 0].argsort().split(max(1, at_once(kept.x.device) // (each * kept.rows.shape[1]))))

    def _stage(self, model: VQDraw, stage: int, target: Tensor, before: _Kept) -> _Kept:
        """Return what is kept after a stage, of what was kept before."""
        k, x, state = model.options, before.x, before.state
        proposed = _proposed(model, x, state, stage)
        grid = proposed.scored(target, before.rows).flatten(1)  # (n, w · k)
        # Stable: of equal losses the first option is taken, as in greedy encoding.
        best = grid.sort(dim=1, stable=True).indices[:, : self.width]
        beam, option = best // k, best % k
        # The new prefixes, each once, however many examples keep it.
        distinct, rows = torch.unique(before.rows.gather(1, beam) * k + option, return_inverse=True)
        parent, chosen = distinct // k, distinct % k
        x = x[parent] + proposed.chosen(parent, chosen)
        if model.stateful:
            state = model.advance(stage, tree_map(itemgetter(parent), proposed.carry), chosen, x)
        codes = before.codes.gather(1, beam[..., None].expand(-1, -1, stage))
        return _Kept(torch.cat([codes, option[..., None]], 2), rows, x, state)


@dataclass(frozen=True)
class _Kept:
    """The prefixes that each of n examples keeps, the best first: codes (n, w, s).

    `rows` (n, w) says where each is in `x` (u, *shape) and `state`. Examples share prefixes: each is there once, or
    once for each part of `_joined`.
    """

    codes: Tensor
    rows: Tensor
    x: Tensor
    state: State

    def of(self, examples: Tensor) -> _Kept:
        """Return what some examples keep."""
        distinct, rows = torch.unique(self.rows[examples], return_inverse=True)
        return _Kept(self.codes[examples], rows, self.x[distinct], tree_map(itemgetter(distinct), self.state))


def _joined(parts: Sequence[_Kept], order: Tensor) -> _Kept:
    """Return what the examples of all parts keep, in the given order."""
    starts = [0, *accumulate(len(part.x) for part in parts)]
    rows = torch.cat([part.rows + start for part, start in zip(parts, starts[:-1], strict=True)])
    codes, x = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "x"))
    return _Kept(codes[order], rows[order], x, _joined_states([part.state for part in parts]))


@dataclass(frozen=True)
class _Deltas:
    """What a stage proposes for u prefixes: the deltas of every option (u, k, *shape).

    Arguments:
        carry: what the refiner carries on, for the same prefixes.
    """

    model: VQDraw
    x: Tensor
    deltas: Tensor
    carry: State

    def scored(self, target: Tensor, kept: Tensor) -> Tensor:
        """Return the loss of every option of the prefixes kept (n, w) for the targets: (n, w, k)."""
        if len(self.x) == 1:
            return self.model.loss.grid(self.x, self.deltas, target)[:, None]
        parts = _pairs(target, kept, max(1, at_once(target.device) // self.deltas[0].numel()))
        scored = [self.model.loss.grid(self.x[row], self.deltas[row], aim) for row, aim in parts]
        return torch.cat(scored).unflatten(0, kept.shape)

    def chosen(self, row: Tensor, option: Tensor) -> Tensor:
        """Return the deltas of options of prefixes, (m,) both → (m, *shape)."""
        return self.deltas[row, option]


@dataclass(frozen=True)
class _Factored:
    """What a stage proposes for u prefixes: its deltas as factors, and the squared norms of these (u, k)."""

    model: VQDraw
    x: Tensor
    factors: Factors
    squares: Tensor
    bias: Tensor | None
    carry: State

    def scored(self, target: Tensor, kept: Tensor) -> Tensor:
        """Return the loss of every option of the prefixes kept (n, w) for the targets: (n, w, k)."""
        loss, scored = self.model.loss, []
        for row, aim in _pairs(target, kept, max(1, at_once(target.device) // (_OF_FACTORS * self.x[0].numel()))):
            residual = loss.residual(self.x[row], aim)
            assert residual is not None  # As for every quadratic loss.
            cross = replace(self.factors, maps=self.factors.maps[row]).cross(residual, self.bias)
            scored.append(loss.grid_of_products(residual, cross, self.squares[row]))
        return torch.cat(scored).unflatten(0, kept.shape)

    def chosen(self, row: Tensor, option: Tensor) -> Tensor:
        """Return the deltas of options of prefixes, (m,) both → (m, *shape)."""
        deltas = replace(self.factors, maps=self.factors.maps[row]).chosen(option)
        deltas = self.model.loss.from_channels(deltas)
        return deltas if self.bias is None else deltas + self.bias[option]


def _proposed(model: VQDraw, x: Tensor, state: State, stage: int) -> _Deltas | _Factored:
    """Return what a stage proposes for every reconstruction (u, *shape), computed part by part."""
    refiner, bias, carries = model.refiners[stage // model.segment], model.bias_of(stage), []
    size = max(1, at_once(x.device) // _values_of_each(model, stage, len(x)))
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    if _has_factors(model, stage, len(x)):
        every, squares = [], []
        for rows in parts:
            channels = model.loss.to_channels(x[rows])
            factors, carry = refiner.factors(channels, stage % model.segment, tree_map(itemgetter(rows), state))
            every.append(factors)
            squares.append(factors.squares(bias))
            carries.append(carry)
        whole = replace(every[0], maps=torch.cat([factors.maps for factors in every]))
        return _Factored(model, x, whole, torch.cat(squares), bias, _joined_states(carries))
    deltas = x.new_empty(len(x), model.options, *model.loss.shape)
    for rows in parts:
        deltas[rows], carry = model.step(x[rows], tree_map(itemgetter(rows), state), stage)
        carries.append(carry)
    return _Deltas(model, x, deltas, _joined_states(carries))


def _pairs(target: Tensor, kept: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of the prefixes kept (n, w), `size` at a time, with the target of each one's example."""
    examples = torch.arange(len(target), device=target.device).repeat_interleave(kept.shape[1])
    for row, example in zip(kept.flatten().split(size), examples.split(size), strict=True):
        yield row, target[example]


def _joined_states(states: Sequence[State]) -> State:
    """Return several states as one, the examples of each after those of the one before."""
    return with_leaves(states[0], [torch.cat(leaves) for leaves in zip(*map(leaves_of, states), strict=True)])


def _has_factors(model: VQDraw, stage: int, prefixes: int) -> bool:
    return model.loss.quadratic and model.refiners[stage // model.segment].has_factors(prefixes)


def _values_of_each(model: VQDraw, stage: int, prefixes: int) -> int:
    """Return how many values a prefix takes while its options are scored: their deltas, or far fewer as factors."""
    return (_OF_FACTORS if _has_factors(model, stage, prefixes) else model.options) * prod(model.loss.shape)
