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
from vqtk.models._choose import choose_option
from vqtk.models._recompute import recomputed
from vqtk.models._walk import Walk
from vqtk.nn.graph import is_capturing
from vqtk.nn.stage import OptionRows, State, chosen_of, decay_gradient, repeat_batch, tree_map
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

    Each `segment` of that many stages shares one refiner (null: all stages do). `grad_decay` is the fraction of the
    gradient that is removed where reconstruction and state enter a stage. A learned bias is added to the deltas of the
    first stage; with `stage_biases`, each stage has one. With `active_stages`, only that many first
    stages are used. A code has `active_stages` × log2(`options`) bits.

    Shapes: data (n, *data shape) in training units ↔ codes (n, stages) in [0, options) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the refiner does not reach the size of the data.
    Source: Nichol 2020, arXiv 2003.01599.
    """

    stepwise = True
    compiled: CompiledStage | None = None
    """The compiled refiners and loss, used for the stages after the first; None if nothing is compiled."""
    captured_calls: CapturedCalls | None = None
    """The graphs of encoding and decoding on CUDA; None if they are not captured."""

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
        stage_biases: bool = False,
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
        self.stage_biases = stage_biases
        self.bias = nn.Parameter(torch.zeros(*([stages] if stage_biases else []), options, *self.loss.shape))
        supplied = self.loss.channels, self.loss.size, self.segment, options, self.loss.out_channels
        self.refiners: Any = nn.ModuleList(refiner(*supplied) for _ in range(ceil(stages / self.segment)))
        self.revives = any(one.revives for one in self.refiners)
        self.stateful = any(one.stateful for one in self.refiners)
        self.segments = len(self.refiners)
        reached = tuple(getattr(self.refiners[0], "size", self.loss.size))
        if reached != self.loss.size:
            raise ShapeError(
                f"the refiner's head returns size {reached}, but the reconstruction has size {self.loss.size}. "
                "Change the strides of the backbone or the `upsample` units of the head."
            )

    # ── a stage, and the encoding pass through all of them ───────────────────────────────────────

    def step(self, x: Tensor, state: State, stage: int, codes: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the deltas of every option at a stage, and what its refiner passes to `advance`.

        Arguments:
            x: the reconstruction so far (n, *shape).
            state: the refiner's state for the same n examples.
            stage: the index of the stage.
            codes: (n,) or (n, m), if only the deltas of these options are needed.

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
        bias = self.bias_of(stage)
        if bias is not None:
            deltas = deltas + (bias if codes is None else bias[codes])
        return deltas, carry

    def bias_of(self, stage: int) -> Tensor | None:
        """Return what is added to the deltas of a stage, (k, *shape); None if it has no bias."""
        if self.stage_biases:
            return self.bias[stage]
        return self.bias if stage == 0 else None

    def table(self, stage: int) -> OptionRows | None:
        """Return the rows that are added to the deltas of a stage as they are: the refiner's codewords, or the bias."""
        own = self.refiners[stage // self.segment].table(stage % self.segment)
        if own is None and self.bias_of(stage) is not None:
            return OptionRows(self.bias, stage if self.stage_biases else None)
        return own

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the rows of the refiner and of the bias, if the refiner says which rows are an option's."""
        rows = self.refiners[stage // self.segment].option_rows(stage % self.segment)
        if rows and self.bias_of(stage) is not None:
            rows = [*rows, OptionRows(self.bias, stage if self.stage_biases else None)]
        return rows

    def guess(self, x: Tensor, state: State, stage: int) -> Tensor:
        """Return the refiner's guesses of all deltas at a stage, by which a search pre-selects options.

        Shapes: → (n, k, *shape), or (1, k, *shape) if they do not depend on x.
        """
        refiner, local = self.refiners[stage // self.segment], stage % self.segment
        guessed = self.loss.from_channels(refiner.guess(self.loss.to_channels(x), local, state))
        bias = self.bias_of(stage)
        return guessed if bias is None else guessed + bias

    def walk(
        self,
        target: Tensor,
        *,
        stages: Sequence[int] | None = None,
        start: tuple[Tensor, State] | None = None,
        selector: SelectorFactory | None = None,
        draws: Tensor | None = None,
        sampled: Tensor | None = None,
        along: Tensor | None = None,
        chosen_only: bool = False,
        recompute: int = 0,
    ) -> Walk:
        """Encode a target, keeping the loss of every option.

        Arguments:
            target: (n, *data shape) in training units.
            stages: the indices of the stages, in order; by default all active ones.
            start: reconstruction and state before the first of them; by default those of the empty code.
            selector: grid (n, k) and draws → codes (n,); by default argmin.
            draws: (n, stages, …), the draws of an exploring selector.
            sampled: (n, stages, m), options drawn for each example and stage. The backward pass then recomputes every
                stage, but only for these options, the best and the chosen one; their losses are returned as well.
            along: (n, stages), codes that a search found; the path takes them instead of choosing.
            chosen_only: whether only the losses of the chosen options have a gradient, which saves most of the work.
            recompute: how many of the first stages the backward pass recomputes. They keep only their input, so the
                activations of the other stages, or of one, are all that is held at a time.
        """
        if tuple(target.shape[1:]) != self.data.shape or target.is_floating_point() == (self.data.classes is not None):
            raise self._unfit(target)
        # Before the first choice all examples have the same reconstruction: its deltas are computed once.
        x, state = start or self.start(min(target.shape[0], 1))
        grids, path, drawn = [], [], []
        for index, stage in enumerate(range(self.stages) if stages is None else stages):
            options = None if sampled is None else sampled[:, stage]
            if torch.is_grad_enabled() and (index < recompute or options is not None):
                # A walk of this one stage, in which the gradient is decayed as below.
                choice = {"selector": selector, "draws": draws, "along": along}
                one, losses = recomputed(self, x, state, target, stage, options, choice)
                grids.append(one.grid[:, 0])
                path.append(one.codes[:, 0])
                drawn += [] if losses is None else [losses]
                x, state = one.reconstruction, one.state
                continue
            if self.grad_decay:
                x, state = self.decayed(x, state)
            if along is not None:
                choose = _given(along[:, stage])
            elif selector is None:
                choose = _best
            else:
                choose = partial(_selected, selector, None if draws is None else draws[:, stage])
            x, grid, codes, carry = choose_option(self, x, state, stage, target, choose, chosen_only=chosen_only)
            state = self.advance(stage, carry, codes, x) if self.stateful else None
            grids.append(grid)
            path.append(codes)
            if options is not None:
                drawn.append(grid.gather(1, options))
        every = torch.stack(drawn, 1) if drawn else None
        led = along is not None or chosen_only
        return Walk(torch.stack(grids, 1), torch.stack(path, 1), x, state, every, led=led)

    def start(self, n: int) -> tuple[Tensor, State]:
        """Return reconstruction and state of n examples before any choice."""
        x = self.bias.new_zeros(n, *self.loss.shape)
        return x, self.refiners[0].initial_state(self.loss.to_channels(x)) if self.stateful else None

    def decayed(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return reconstruction and state as they enter a stage, with a fraction of their gradient removed."""
        return decay_gradient(x, self.grad_decay), tree_map(partial(decay_gradient, decay=self.grad_decay), state)

    def advance(self, stage: int, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the state after a stage, from the carry of `step`, the codes (n,) and the new reconstruction."""
        return self.refiners[stage // self.segment].advance(repeat_batch(carry, x.shape[0]), codes, x)

    # ── the protocol of a model ──────────────────────────────────────────────────────────────────

    def forward(self, target: Tensor, *, draws: Tensor | None = None, recompute: int = 0) -> Walk:
        """Walk by the recipe's selector, with the draws of `draw`; for objectives that need no more than that."""
        return self.walk(target, selector=self.selector, draws=draws, recompute=recompute)

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor | None:
        """Return the draws of the recipe's selector for n examples, (n, stages, …); None if it does not explore.

        `progress` is the fraction of the training that is done, from 0 to 1.
        """
        return self.selector.draw(n, self.stages, self.options, generator, progress=progress)

    @torch.no_grad()
    def encode(self, target: Tensor, *, search: Search | None = None) -> Tensor:
        """Return the codes of a target (n, *data shape) → (n, stages), by a search; by default by the recipe's."""
        self._check_target(target)
        return self._called(self._encoded, target) if search is None else search(self, target)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes (n, s): a prefix, s < stages, gives coarser ones (n, *shape).

        The result has a gradient for the weights; call it under `torch.no_grad()` if none is wanted.

        Raises: VqtkError if there are more codes than stages, or a code is not an option.
        """
        self._check_codes(codes, most=self.total_stages)
        return self._decoded(codes) if torch.is_grad_enabled() else self._called(self._decoded, codes)

    @torch.no_grad()
    def decode_stages(self, codes: Tensor) -> Tensor:
        """Return the reconstruction after each stage: codes (n, s) → (n, s, *shape)."""
        self._check_codes(codes, most=self.total_stages)
        return self._called(self._decoded_stages, codes)

    def along(self, codes: Tensor) -> Tensor:
        """Return the reconstruction after each stage, (n, s) → (n, s, *shape), with a gradient for the weights.

        Only the deltas of these codes are computed, as in decoding.
        """
        after: list[Tensor] = []
        self._follow(codes, after)
        return torch.stack(after, 1)

    @torch.no_grad()
    def scored(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grids (n, s, k) of a greedy encoding pass, its codes (n, s) and reconstructions (n, *shape)."""
        return self._called(self._scored, target)

    @torch.no_grad()
    def proposals(self, codes: Tensor) -> Tensor:
        """Return the proposals of the stage after the prefix codes (n, s): (n, k, *shape).

        Raises: VqtkError if the prefix has all stages.
        """
        if codes.shape[1] >= self.total_stages:
            raise VqtkError(f"the prefix has all {self.total_stages} stages, so none is left to propose. Give fewer.")
        self._check_codes(codes, most=self.total_stages)
        x, state = self._follow(codes)
        deltas, _ = self.step(x, state, codes.shape[1])
        return x[:, None] + deltas

    def _follow(self, codes: Tensor, after: list[Tensor] | None = None) -> tuple[Tensor, State]:
        """Decode given codes, computing only the chosen deltas; append each reconstruction to `after`, if given."""
        n = codes.shape[0]
        x, state = self.start(min(n, 1))
        for stage, chosen in enumerate(codes.unbind(1)):
            if self.grad_decay:
                x, state = self.decayed(x, state)
            # At the first stage all options for one example cost less than one option for each of n.
            if x.shape[0] < n:
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
        """Call a function, or its graph if calls are captured; a graph belongs to the address of the weights."""
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
        return self.along(codes)

    def trial(self, target: Tensor) -> Tensor:
        """Encode by the first and last stages of the first and last segments; decode the first code."""
        last_segment = (self.total_stages - 1) // self.segment * self.segment
        distinct = sorted({0, self.segment - 1, last_segment, self.total_stages - 1})
        walk = self.walk(target, stages=distinct)
        with torch.no_grad():
            self.decode(walk.codes[:, :1])
        return walk.choice + walk.all

    def move_rest(self, device: torch.device) -> None:
        """Move everything but the refiners to a device."""
        for name, child in self.named_children():
            if name != "refiners":
                child.to(device)
        self.bias.data = self.bias.data.to(device)

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Let each refiner revive unused options after an update; usage (s, k) counts how often each was chosen."""
        for stage in range(0, self.stages, self.segment):
            self.refiners[stage // self.segment].after_update(optimizer, usage[stage : stage + self.segment])


def _best(grid: Tensor) -> Tensor:
    return grid.argmin(1)


def _given(codes: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda grid: codes


def _selected(selector: SelectorFactory, draws: Tensor | None, grid: Tensor) -> Tensor:
    return selector(grid, draws)
