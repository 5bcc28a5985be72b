"""VQ-DRAW: a code is chosen stage by stage, each stage the best of K proposed changes.

    x = 0, state = initial                    target ──┐
    for each stage:                                    │
        deltas    = refiner(x, stage, state)           │     (n, k, *shape)
        proposals = x + deltas                         │     (n, k, *shape)
        grid      = loss(proposals, target)  ◄─────────┘     (n, k)
        code      = selector(grid)                           (n,)
        x, state  = proposals[code], advance(state)

Source: Nichol 2020, VQ-DRAW: A Sequential Discrete VAE, arXiv 2003.01599, algorithm 1 and section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import ceil
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from vqtk.errors import ShapeError, VqtkError
from vqtk.models._base import Model
from vqtk.models._walk import Walk
from vqtk.nn.state import State, decay_gradient, tree_map
from vqtk.nn.types import Count, DataSpec, Fraction
from vqtk.refiners._base import Refiner as RefinerModule
from vqtk.registry import Condition, Loss, Refiner, Search, Selector, models
from vqtk.selectors.argmin import Argmin

_EXAMPLE = {
    "stages": 4,
    "options": 4,
    "segment": 2,
    "loss": "mse",
    "refiner": {
        "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
        "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    },
}


@models.register("vqdraw", example=_EXAMPLE)
class VQDraw(Model):
    """The sequential discrete variational auto-encoder of the paper.

    `segment` stages share one refiner (none: all of them). `grad_decay` takes that part of the gradient
    away where a reconstruction and a state enter a stage. Only the first `active_stages` are used, where
    given. A code has `active_stages` × log2(`options`) bits.

    Shapes: data (n, *data shape) in training units ↔ codes (n, stages) in [0, options) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the refiner does not reach the size of the data.
    Source: Nichol 2020, arXiv 2003.01599.
    """

    stepwise = True

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Count,
        options: Count,
        loss: Loss,
        condition: Condition,
        refiner: Refiner,
        segment: Count | None = None,
        grad_decay: Fraction = 0.0,
        active_stages: Count | None = None,
        selector: Selector,
        search: Search,
    ):
        super().__init__(data, stages=active_stages or stages, options=options)
        if self.stages > stages:
            raise ShapeError(f"`active_stages` is {active_stages}, of {stages} stages. Give at most {stages}.")
        self.total_stages = stages
        self.segment = min(segment or stages, stages)
        self.grad_decay = grad_decay
        self.loss = loss(data)
        self.selector, self.search = selector(), search()
        self.bias = nn.Parameter(torch.zeros(options, *self.loss.shape))
        supplied = self.loss.channels, self.loss.size, self.segment, options, self.loss.out_channels
        self.refiners = nn.ModuleList(refiner(*supplied) for _ in range(ceil(stages / self.segment)))
        self.segments = len(self.refiners)
        reached = tuple(getattr(self.refiners[0], "size", self.loss.size))
        if reached != self.loss.size:
            raise ShapeError(
                f"the refiner's head yields size {reached}, but the reconstruction has size {self.loss.size}. "
                "Change the strides of the backbone or the `upsample` units of the head."
            )

    # ── the stage walk ───────────────────────────────────────────────────────────────────────────

    def walk(
        self,
        target: Tensor,
        *,
        stages: Iterable[int] | None = None,
        selector: Selector | None = None,
        draws: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Walk:
        """Encode a target (n, *data shape), keeping every option's loss.

        `stages` are indices in order (all active ones by default). `selector` is argmin by default;
        `draws` (n, stages, …) is what one that explores has drawn. With `checkpoint` activations are
        recomputed in the backward pass: memory for one stage instead of all.
        """
        self._check_target(target)
        x, state = self._start(target)
        grids, path = [], []
        for stage in range(self.stages) if stages is None else stages:
            select = partial(selector or Argmin(), draws=None if draws is None else draws[:, stage])
            if checkpoint:
                step = partial(self._stage, select=_remember(select))
                x, state, grid, codes = recompute(step, x, state, target, stage, use_reentrant=False)
            else:
                x, state, grid, codes = self._stage(x, state, target, stage, select)
            grids.append(grid)
            path.append(codes)
        return Walk(torch.stack(grids, 1), torch.stack(path, 1), x)

    def _stage(
        self, x: Tensor, state: State, target: Tensor, stage: int, select: partial[Tensor]
    ) -> tuple[Tensor, State, Tensor, Tensor]:
        x, state = decay_gradient(x, self.grad_decay), self._decay(state)
        deltas, carry = self._deltas(x, state, stage)
        grid, codes, x = self.loss.select(x, deltas, target, select)
        refiner, _ = self.refiner_of(stage)
        return x, refiner.advance(carry, codes, x), grid, codes

    def _deltas(self, x: Tensor, state: State, stage: int) -> tuple[Tensor, State]:
        refiner, local = self.refiner_of(stage)
        deltas, carry = refiner.propose(self.loss.to_channels(x), local, state)
        deltas = self.loss.from_channels(deltas).to(x.dtype)
        return (deltas + self.bias if stage == 0 else deltas), carry

    def _start(self, like: Tensor) -> tuple[Tensor, State]:
        x = self.bias.new_zeros(len(like), *self.loss.shape)
        return x, self.refiner_of(0)[0].initial_state(self.loss.to_channels(x))

    def _decay(self, state: State) -> State:
        return tree_map(lambda value: decay_gradient(value, self.grad_decay), state)

    def refiner_of(self, stage: int) -> tuple[RefinerModule, int]:
        """Return the refiner of a stage, and the stage's index within the refiner's segment."""
        return cast(RefinerModule, self.refiners[stage // self.segment]), stage % self.segment

    # ── what a model is asked for ────────────────────────────────────────────────────────────────

    def forward(self, target: Tensor, *, draws: Tensor | None = None, checkpoint: bool = False) -> Walk:
        """Walk as training does: by the recipe's selector, with what `draw` drew for it."""
        return self.walk(target, selector=self.selector, draws=draws, checkpoint=checkpoint)

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what the recipe's selector needs to explore with n items: (n, stages, …), or None.

        `progress` is the part of the training that is done, from 0 to 1.
        """
        draws = self.selector.draw(n, self.stages, self.options, generator, progress=progress)
        return None if draws is None else draws.to(self.device)

    @torch.no_grad()
    def encode(self, target: Tensor) -> Tensor:
        """Return the codes of a target (n, *data shape) → (n, stages), by the recipe's search."""
        return self.search(self, target)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes (n, s): a prefix, s < stages, gives coarser ones (n, *shape).

        It has a gradient, by the weights; call it under `torch.no_grad()` where none is wanted.

        Raises: VqtkError if there are more codes than stages, or a code is no option.
        """
        return self._follow(codes)[0]

    @torch.no_grad()
    def decode_stages(self, codes: Tensor) -> Tensor:
        """Return the reconstruction after each stage: codes (n, s) → (n, s, *shape)."""
        after: list[Tensor] = []
        self._follow(codes, after)
        return torch.stack(after, 1)

    @torch.no_grad()
    def proposals(self, codes: Tensor) -> Tensor:
        """Return what the stage after the prefix codes (n, s) proposes: (n, k, *shape).

        Raises: VqtkError if all stages are in the prefix.
        """
        if codes.shape[1] >= self.total_stages:
            raise VqtkError(f"all {self.total_stages} stages are chosen; there is no stage left that proposes.")
        x, state = self._follow(codes)
        deltas, _ = self._deltas(x, state, codes.shape[1])
        return x[:, None] + deltas

    def _follow(self, codes: Tensor, after: list[Tensor] | None = None) -> tuple[Tensor, State]:
        """Walk with the codes given, computing the chosen deltas alone."""
        self._check_codes(codes, most=self.total_stages)
        x, state = self._start(codes)
        for stage, chosen in enumerate(codes.unbind(1)):
            x, state = decay_gradient(x, self.grad_decay), self._decay(state)
            refiner, local = self.refiner_of(stage)
            delta, carry = refiner.choose(self.loss.to_channels(x), local, state, chosen)
            x = x + self.loss.from_channels(delta)
            if stage == 0:
                x = x + self.bias[chosen]
            state = refiner.advance(carry, chosen, x)
            if after is not None:
                after.append(x)
        return x, state

    def trial(self, target: Tensor) -> Tensor:
        """Walk through the first and last stage of the first and last segment; decode the first code."""
        last_segment = (self.total_stages - 1) // self.segment * self.segment
        telling = sorted({0, self.segment - 1, last_segment, self.total_stages - 1})
        walk = self.walk(target, stages=telling)
        with torch.no_grad():
            self.decode(walk.codes[:, :1])
        return walk.quantities().choice + walk.quantities().all

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Let each refiner mend itself after an update; usage (s, k) counts the best options."""
        for stage in range(0, self.stages, self.segment):
            self.refiner_of(stage)[0].after_update(optimizer, usage[stage : stage + self.segment])


def _remember(select: partial[Tensor]) -> partial[Tensor]:
    """Return a selection that, when the stage is recomputed, gives the codes of the first time again."""
    first: list[Tensor] = []

    def again(grid: Tensor) -> Tensor:
        if not first:
            first.append(select(grid))
        return first[0]

    return partial(again)
