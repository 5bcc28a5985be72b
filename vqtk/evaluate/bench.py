"""Speed and memory of vqtk against a textbook implementation, with the calls interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isqrt
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vqtk.errors import VqtkError
from vqtk.evaluate.profile import peak_bytes
from vqtk.models import Walk
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import State, repeat_batch
from vqtk.recipe.affordable import check_update
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe
from vqtk.training.execution import Execution, resolve, synchronize
from vqtk.training.loop import LOG_EVERY, Trainer


@dataclass(frozen=True)
class Comparison:
    """A measurement of the textbook, of vqtk's uncompiled code, and of what the recipe computes with, in ms or MB.

    `computed` is None if the recipe uses the uncompiled code.
    """

    what: str
    unit: str
    textbook: float
    plain: float
    computed: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON, with the textbook's as multiples of vqtk's."""
        ratio = None if self.computed is None else self.textbook / self.computed
        return {**asdict(self), "plain_ratio": self.textbook / self.plain, "computed_ratio": ratio}


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark.

    `execution` is how the recipe computes, as a manifest records it. `compile_s` is the extra time of its first update
    and encoding, which compile and capture; `earned_back` is the number of updates that save this time, None if they
    never do.
    """

    execution: dict[str, Any]
    device: str
    threads: int
    batch: int
    comparisons: list[Comparison]
    compile_s: float | None
    earned_back: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {**asdict(self), "comparisons": [one.to_json() for one in self.comparisons]}


def bench(recipe: Recipe, *, rounds: int, batch: int, device: torch.device) -> Benchmark:
    """Time an update, encoding and decoding of `batch` synthetic examples, each side in turn, and measure memory.

    The memory of an update is what it takes beyond weights, gradients and moments.

    Raises: VqtkError if the model has no stages.
    """
    sides = _sides(recipe, batch, device)
    works: dict[str, list[Callable[[], object]]] = {name: [] for name in ("update", "loop", "encode", "decode")}
    for side in sides:
        for name, call in side.works().items():
            works[name].append(call)
    first_s = [_seconds(side.everything, device) for side in sides]
    found = []
    for name, calls in works.items():
        found.append(_comparison(name, "ms", _interleaved(calls, rounds, device)))
    found.append(_comparison("memory", "MB", [side.memory_mb() for side in sides]))
    compile_s = earned = None
    if len(sides) > 2:
        plain, computed = found[0].plain, found[0].computed or found[0].plain
        again_s = _seconds(sides[2].everything, device)
        compile_s = max(0.0, first_s[2] - again_s)
        earned = round(1e3 * compile_s / (plain - computed)) if computed < plain else None
    return Benchmark(
        execution=sides[-1].trainer.execution.recorded(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        batch=batch,
        comparisons=found,
        compile_s=compile_s,
        earned_back=earned,
    )


def _sides(recipe: Recipe, batch: int, device: torch.device) -> list[_Side]:
    """Return the textbook, the uncompiled code, and what the recipe computes with if that differs."""
    model = build_model(recipe, device=device)
    if not isinstance(model, VQDraw):
        raise VqtkError(f"{type(model).__name__} has no stages, and bench compares passes through them. Use a vqdraw.")
    check_update(recipe, model, batch=batch)
    target = synthetic(model.data, batch).to(device)
    execution = resolve(recipe, model)
    plain = replace(execution, inductor=False, graph=False, precision="float32")
    segment = isqrt(model.stages) if execution.recompute else None
    sides = [
        _Textbook(Trainer(recipe, model, Execution()), target, segment),
        _Side(Trainer(recipe, build_model(recipe, device=device), plain), target),
    ]
    if execution != replace(plain, notes=execution.notes):
        sides.append(_Side(Trainer(recipe, build_model(recipe, device=device), execution), target))
    return sides


class _Side:
    """One way to do the work, with its own copy of the model."""

    def __init__(self, trainer: Trainer, target: Tensor):
        self.trainer, self.model, self.target = trainer, trainer.model, target
        self.codes = self.model.random_codes(len(target), generator=torch.Generator().manual_seed(0))
        self.precision = trainer.execution.precision

    def works(self) -> dict[str, Callable[[], object]]:
        """Return the calls to time, by name."""
        return {"update": self.update, "loop": self.loop, "encode": self.encode, "decode": self.decode}

    def update(self) -> None:
        """Do an update on one batch."""
        self.trainer.update([self.target], updates=10**9)

    def loop(self) -> None:
        """Do an update as the training loop does, which reads the metrics every few updates."""
        self.update()
        if self.trainer.done % LOG_EVERY == 0:
            self.trainer.metrics()

    @torch.no_grad()
    def encode(self) -> Tensor:
        """Encode the batch."""
        with self._autocast():
            return self.model.encode(self.target)

    @torch.no_grad()
    def decode(self) -> Tensor:
        """Decode a batch of codes."""
        with self._autocast():
            return self.model.decode(self.codes)

    def everything(self) -> None:
        """Update, encode and decode once, which compiles and captures all that is to be."""
        self.update()
        self.encode()
        self.decode()

    def memory_mb(self) -> float:
        """Return the peak memory of a forward and backward pass, beyond what was held before."""
        self.trainer.optimizer.zero_grad(set_to_none=False)
        with peak_bytes(self.target.device) as peak:
            self.backward()
        return peak[0] / 1e6

    def backward(self) -> None:
        """Add the gradient of the batch."""
        self.trainer.backward(self.target, None, 1.0)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.target.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


class _Textbook(_Side):
    """The algorithm as the paper writes it; with a `segment`, activations are recomputed segment by segment."""

    def __init__(self, trainer: Trainer, target: Tensor, segment: int | None):
        super().__init__(trainer, target)
        self.walk = partial(textbook_walk, cast(VQDraw, trainer.model), segment=segment)
        trainer.explores = False
        trainer.objective.model = _Walking(self.walk)

    def loop(self) -> None:
        """Do an update and encode a test batch, as the original does at every step."""
        self.update()
        self.encode()

    @torch.no_grad()
    def encode(self) -> Tensor:
        """Encode the batch."""
        return self.walk(self.target).codes

    @torch.no_grad()
    def decode(self) -> Tensor:
        """Decode a batch of codes."""
        return textbook_decode(cast(VQDraw, self.model), self.codes)


@dataclass(frozen=True)
class _Walking:
    """A stand-in model for the objective, which needs only a walk of it."""

    take: Callable[[Tensor], Walk]

    def walk(self, target: Tensor, **_: Any) -> Walk:
        """Encode the target, ignoring all other arguments."""
        return self.take(target)

    __call__ = walk


def _comparison(what: str, unit: str, values: Sequence[float]) -> Comparison:
    return Comparison(what, unit, values[0], values[1], values[2] if len(values) > 2 else None)


def _interleaved(calls: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[float]:
    """Return the median time of each call in ms. Every round calls each once, and the first round warms up.

    Interleaving makes the machine's other load fall on all calls alike.
    """
    times = [[_seconds(call, device) for call in calls] for _ in range(rounds + 1)][1:]
    return [1e3 * statistics.median(column) for column in zip(*times, strict=True)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def textbook_walk(model: VQDraw, target: Tensor, *, segment: int | None = None) -> Walk:
    """Encode as the paper writes it: every proposal in memory, the best one indexed, gradients by autograd alone."""
    x, state = (repeat_batch(value, len(target)) for value in model.start(1))
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
    """Decode by computing all proposals of each stage and taking the coded one."""
    x, state = (repeat_batch(value, len(codes)) for value in model.start(1))
    for stage, chosen in enumerate(codes.unbind(1)):
        deltas, carry = model.step(x, state, stage)
        x = (x[:, None] + deltas)[torch.arange(len(chosen), device=chosen.device), chosen]
        state = model.advance(stage, carry, chosen, x)
    return x
