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

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from vqtk.errors import ShapeError, VqtkError
from vqtk.models._base import Model
from vqtk.models._recompute import recomputed
from vqtk.models._walk import Walk
from vqtk.nn.graph import is_capturing
from vqtk.nn.stage import State, chosen_of, decay_gradient, repeat_batch, tree_map
from vqtk.nn.types import Count, DataSpec, Fraction, Options, Stages
from vqtk.registry import ConditionFactory, LossFactory, RefinerFactory, SearchFactory, SelectorFactory, models

if TYPE_CHECKING:
    from vqtk.models._compiled import CompiledStage
    from vqtk.nn.graph import CapturedCalls

Search = Callable[["VQDraw", Tensor], Tensor]
"""A component of `vqtk.searches`: a model and a target (n, *data shape) → codes (n, stages)."""
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor, Tensor])

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
    compiled: CompiledStage | None = None
    """What computes the stages after the first instead of refiners and loss, where they are compiled."""
    captured_calls: CapturedCalls | None = None
    """What captures encoding and decoding as graphs, on CUDA."""

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: LossFactory,
        condition: ConditionFactory,
        refiner: RefinerFactory,
        segment: Count | None = None,
        grad_decay: Fraction = 0.0,
        active_stages: Count | None = None,
        selector: SelectorFactory,
        search: SearchFactory,
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
        self.refiners: Any = nn.ModuleList(refiner(*supplied) for _ in range(ceil(stages / self.segment)))
        self.revives = any(one.revives for one in self.refiners)
        self.stateful = any(one.stateful for one in self.refiners)
        self.segments = len(self.refiners)
        reached = tuple(getattr(self.refiners[0], "size", self.loss.size))
        if reached != self.loss.size:
            raise ShapeError(
                f"the refiner's head yields size {reached}, but the reconstruction has size {self.loss.size}. "
                "Change the strides of the backbone or the `upsample` units of the head."
            )

    # ── the stage, and the walk through all of them ──────────────────────────────────────────────

    def step(self, x: Tensor, state: State, stage: int, codes: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the deltas of every option at a stage, and what its refiner carries on to `advance`.

        Arguments:
            x: the reconstruction so far (n, *shape).
            state: the refiner's, of the same n examples.
            stage: the index of the stage.
            codes: (n,) or (n, m), where only the deltas of these options are needed.

        Shapes: → deltas (n, k, *shape); with codes (n, *shape) or (n, m, *shape).
        """
        refiner, local = self.refiners[stage // self.segment], stage % self.segment
        channels = self.loss.to_channels(x)
        network = self.compiled.network(refiner) if self.compiled and self.compiled.takes(x) else refiner
        if codes is None:
            deltas, carry = network.propose(channels, local, state)
        elif codes.dim() == 1:
            deltas, carry = network.choose(channels, local, state, codes)
        else:
            deltas, carry = refiner.choose_many(channels, local, state, codes)
        deltas = self.loss.from_channels(deltas)
        if stage == 0:
            deltas = deltas + (self.bias if codes is None else self.bias[codes])
        return deltas, carry

    def walk(
        self,
        target: Tensor,
        *,
        stages: Sequence[int] | None = None,
        start: tuple[Tensor, State] | None = None,
        selector: SelectorFactory | None = None,
        draws: Tensor | None = None,
        sampled: Tensor | None = None,
        recompute: int = 0,
    ) -> Walk:
        """Encode a target, keeping every option's loss.

        Arguments:
            target: (n, *data shape) in training units.
            stages: their indices in order; all active ones by default.
            start: reconstruction and state before the first of them; those of the empty code by default.
            selector: grid (n, k) and draws → codes (n,); argmin by default.
            draws: (n, stages, …), what a selector that explores has drawn.
            sampled: (n, stages, m), options drawn for each example and stage. They, the best and the chosen option are
                then all that the backward pass computes; their losses are returned, and stages computed again.
            recompute: how many of the first stages are computed again in the backward pass. They keep nothing but
                their input, so the memory is that of the other stages, or of one.
        """
        if tuple(target.shape[1:]) != self.data.shape or target.is_floating_point() == (self.data.classes is not None):
            raise self._unfit(target)
        # Before the first choice all examples are alike: one of them stands for the batch.
        x, state = start or self.start(min(len(target), 1))
        loss, grids, path, drawn = self.compiled or self.loss, [], [], []
        for index, stage in enumerate(range(self.stages) if stages is None else stages):
            options = None if sampled is None else sampled[:, stage]
            if torch.is_grad_enabled() and (index < recompute or options is not None):
                choice = {"selector": selector, "draws": draws}
                one, losses = recomputed(self, x, state, target, stage, options, choice)
                grids.append(one.grid[:, 0])
                path.append(one.codes[:, 0])
                drawn += [] if losses is None else [losses]
                x, state = one.reconstruction, one.state
                continue
            if self.grad_decay:
                x, state = self.decayed(x, state)
            deltas, carry = self.step(x, state, stage)
            grid = loss.grid(x, deltas, target)
            if selector is None:
                codes = grid.argmin(1)
            else:
                codes = selector(grid.detach(), None if draws is None else draws[:, stage])
            grid, x = loss.take(x, deltas, target, grid, codes)
            state = self.advance(stage, carry, codes, x) if self.stateful else None
            grids.append(grid)
            path.append(codes)
            if options is not None:
                drawn.append(grid.gather(1, options))
        every = torch.stack(drawn, 1) if drawn else None
        return Walk(torch.stack(grids, 1), torch.stack(path, 1), x, state, every)

    def start(self, n: int) -> tuple[Tensor, State]:
        """Return reconstruction and state of n examples before any choice."""
        x = self.bias.new_zeros(n, *self.loss.shape)
        return x, self.refiners[0].initial_state(self.loss.to_channels(x)) if self.stateful else None

    def decayed(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return reconstruction and state as they enter a stage: with a part of their gradient taken away."""
        return decay_gradient(x, self.grad_decay), tree_map(partial(decay_gradient, decay=self.grad_decay), state)

    def advance(self, stage: int, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the state after a stage, from what `step` left, the codes (n,) and the new reconstruction."""
        return self.refiners[stage // self.segment].advance(repeat_batch(carry, len(x)), codes, x)

    # ── what a model is asked for ────────────────────────────────────────────────────────────────

    def forward(self, target: Tensor, *, draws: Tensor | None = None, recompute: int = 0) -> Walk:
        """Walk as training does: by the recipe's selector, with what `draw` drew for it."""
        return self.walk(target, selector=self.selector, draws=draws, recompute=recompute)

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return what the recipe's selector needs to explore with n examples: (n, stages, …), or None.

        `progress` is the part of the training that is done, from 0 to 1.
        """
        return self.selector.draw(n, self.stages, self.options, generator, progress=progress)

    @torch.no_grad()
    def encode(self, target: Tensor, *, search: Search | None = None) -> Tensor:
        """Return the codes of a target (n, *data shape) → (n, stages), by a search; by default by the recipe's."""
        self._check_target(target)
        return self._called(self._encoded, target) if search is None else search(self, target)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes (n, s): a prefix, s < stages, gives coarser ones (n, *shape).

        It has a gradient, by the weights; call it under `torch.no_grad()` where none is wanted.

        Raises: VqtkError if there are more codes than stages, or a code is no option.
        """
        self._check_codes(codes, most=self.total_stages)
        return self._decoded(codes) if torch.is_grad_enabled() else self._called(self._decoded, codes)

    @torch.no_grad()
    def decode_stages(self, codes: Tensor) -> Tensor:
        """Return the reconstruction after each stage: codes (n, s) → (n, s, *shape)."""
        self._check_codes(codes, most=self.total_stages)
        return self._called(self._decoded_stages, codes)

    @torch.no_grad()
    def scored(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grids (n, s, k) of a greedy encoding pass, its codes (n, s) and reconstructions (n, *shape)."""
        return self._called(self._scored, target)

    @torch.no_grad()
    def proposals(self, codes: Tensor) -> Tensor:
        """Return what the stage after the prefix codes (n, s) proposes: (n, k, *shape).

        Raises: VqtkError if all stages are in the prefix.
        """
        if codes.shape[1] >= self.total_stages:
            raise VqtkError(f"all {self.total_stages} stages are chosen; there is no stage left that proposes.")
        self._check_codes(codes, most=self.total_stages)
        x, state = self._follow(codes)
        deltas, _ = self.step(x, state, codes.shape[1])
        return x[:, None] + deltas

    def _follow(self, codes: Tensor, after: list[Tensor] | None = None) -> tuple[Tensor, State]:
        """Walk with the codes given, computing the chosen deltas alone."""
        n = len(codes)
        x, state = self.start(min(n, 1))
        for stage, chosen in enumerate(codes.unbind(1)):
            if self.grad_decay:
                x, state = self.decayed(x, state)
            if len(x) < n:  # The first stage: all its options for one example cost less than one for each of n.
                deltas, carry = self.step(x, state, stage)
                x = x + chosen_of(deltas, chosen)
            else:
                delta, carry = self.step(x, state, stage, chosen)
                x = x + delta
            state = self.advance(stage, carry, chosen, x) if self.stateful else None
            if after is not None:
                after.append(x)
        return repeat_batch(x, n), repeat_batch(state, n)

    def _called(self, function: Callable[..., Result], given: Tensor) -> Result:
        """Call a function; where the model's calls are captured, its graph, which holds where the weights are."""
        if self.captured_calls is None or is_capturing(given):
            return function(given)
        return self.captured_calls(function, given, self.bias.data_ptr())

    def _encoded(self, target: Tensor, weights: int = 0) -> Tensor:
        return self.search(self, target)

    def _scored(self, target: Tensor, weights: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        walk = self.walk(target)
        return walk.grid, walk.best, walk.reconstruction

    def _decoded(self, codes: Tensor, weights: int = 0) -> Tensor:
        return self._follow(codes)[0]

    def _decoded_stages(self, codes: Tensor, weights: int = 0) -> Tensor:
        after: list[Tensor] = []
        self._follow(codes, after)
        return torch.stack(after, 1)

    def trial(self, target: Tensor) -> Tensor:
        """Walk through the first and last stage of the first and last segment; decode the first code."""
        last_segment = (self.total_stages - 1) // self.segment * self.segment
        telling = sorted({0, self.segment - 1, last_segment, self.total_stages - 1})
        walk = self.walk(target, stages=telling)
        with torch.no_grad():
            self.decode(walk.codes[:, :1])
        return walk.choice + walk.all

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Let each refiner revive options after an update; usage (s, k) counts the best options."""
        for stage in range(0, self.stages, self.segment):
            self.refiners[stage // self.segment].after_update(optimizer, usage[stage : stage + self.segment])
