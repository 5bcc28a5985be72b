"""Speed of the core, as ratios to the plainest implementation, interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.models._walk import Walk
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.validate import synthetic
from vqtk.train.trainer import Trainer


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result: their median times, and how many times as fast ours is."""

    what: str
    ours: str
    theirs: str
    ours_ms: float
    theirs_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.theirs_ms / self.ours_ms


def bench(recipe: Recipe, *, rounds: int, batch: int, device: torch.device) -> list[Comparison]:
    """Compare decoding, encoding and a training update of `batch` items with the textbook's way."""
    model = build_model(recipe, device=device)
    target = synthetic(model.data, batch).to(device)
    codes = model.random_codes(batch, generator=torch.Generator().manual_seed(0))
    trainer, plain = Trainer(recipe, model), Trainer(recipe, _Textbook(build_model(recipe, device=device)))
    decode = no_grad(lambda: model.decode(codes)), no_grad(lambda: textbook_decode(model, codes))
    encode = no_grad(lambda: model.encode(target)), no_grad(lambda: textbook_walk(model, target))

    def ours() -> None:
        trainer.update([target], updates=10**9)

    def theirs() -> None:
        plain.update([target], updates=10**9)

    def theirs_with_test() -> None:
        theirs()
        encode[1]()

    return [
        _compare("decode", ("chosen deltas only", decode[0]), ("all proposals", decode[1]), rounds),
        _compare("encode", ("no proposals", encode[0]), ("proposals", encode[1]), rounds),
        _compare("update", ("vqtk", ours), ("textbook loop", theirs), rounds),
        _compare("update", ("vqtk", ours), ("textbook loop, test batch at every step", theirs_with_test), rounds),
    ]


def textbook_walk(model: Any, target: Tensor) -> Walk:
    """Walk as the paper writes it: every proposal materialised, the best one indexed, gradients by autograd alone."""
    x, state = model._start(target)
    grids, path = [], []
    for stage in range(model.stages):
        refiner, _ = model.refiner_of(stage)
        deltas, carry = model._deltas(x, state, stage)
        proposals = x[:, None] + deltas
        grid = model.loss(proposals, target)
        codes = grid.argmin(1)
        x = proposals[torch.arange(len(codes), device=codes.device), codes]
        state = refiner.advance(carry, codes, x)
        grids.append(grid)
        path.append(codes)
    return Walk(torch.stack(grids, 1), torch.stack(path, 1), x)


def textbook_decode(model: Any, codes: Tensor) -> Tensor:
    """Decode by computing all proposals of each stage and taking the one that the code names."""
    x, state = model._start(codes)
    for stage, chosen in enumerate(codes.unbind(1)):
        refiner, _ = model.refiner_of(stage)
        deltas, carry = model._deltas(x, state, stage)
        x = (x[:, None] + deltas)[torch.arange(len(chosen), device=chosen.device), chosen]
        state = refiner.advance(carry, chosen, x)
    return x


class _Textbook(torch.nn.Module):
    """A model that trains by the textbook walk."""

    stepwise = True

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, target: Tensor, **_: Any) -> Walk:
        return textbook_walk(self.model, target)

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> None:
        return None

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        self.model.after_update(optimizer, usage)


def no_grad(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call without gradients."""
    return torch.no_grad()(call)


def _compare(
    what: str, ours: tuple[str, Callable[[], object]], theirs: tuple[str, Callable[[], object]], rounds: int
) -> Comparison:
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for kept, (_, call) in zip(times, (ours, theirs), strict=True):
            started = time.perf_counter()
            call()
            _finish()
            if round_:
                kept.append(1e3 * (time.perf_counter() - started))
    return Comparison(what, ours[0], theirs[0], statistics.median(times[0]), statistics.median(times[1]))


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
