"""One pass over a split: rate, distortion, code usage and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import exp, log, log2, prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from vqtk.datasets import Split, batches_of
from vqtk.evaluate.distortion import figures_of, psnr_db, stage_figures
from vqtk.models import Model, usage_of
from vqtk.train.execution import generator, synchronize

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """Items a second, medians over `batches` batches of `batch` items; `warmed_up` if a first one was left out."""

    encode_items_per_s: float
    decode_items_per_s: float
    batch: int
    batches: int
    warmed_up: bool
    threads: int
    device: str

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


class Stopwatch:
    """Times each call of one kind on a device, in items a second."""

    def __init__(self, device: torch.device):
        self.device = device
        self.items_per_s: list[float] = []

    def __call__(self, items: int, call: Callable[[], Result]) -> Result:
        """Return what the call returns, having noted the time that it took for so many items."""
        synchronize(self.device)
        started = time.perf_counter()
        result = call()
        synchronize(self.device)
        self.items_per_s.append(items / (time.perf_counter() - started))
        return result

    def median(self) -> float:
        """Return the median rate; the first call, which warms up, is left out unless it is the only one."""
        return statistics.median(self.items_per_s[1:] or self.items_per_s)


def rates(encode: Stopwatch, decode: Stopwatch, *, batch: int) -> Rates:
    """Return the rates that two stopwatches found on batches of `batch` items."""
    timed, device = len(encode.items_per_s), encode.device
    return Rates(
        encode_items_per_s=encode.median(),
        decode_items_per_s=decode.median(),
        batch=batch,
        batches=max(1, timed - 1),
        warmed_up=timed > 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


MOST_PROPOSED = {"cpu": 1 << 21}
"""Values that the proposals of a batch hold at most, by device: on the CPU they should fit its cache, which
makes encoding digits a third faster than in batches of 100."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split; losses in units of the model's loss, averaged over items.

    `distortion` (s,) is the smallest loss at each stage, None where the model has no reconstruction; `all` the mean
    over every option, None where no option but the chosen one was scored. `usage` (s, k) counts how often each option
    was chosen. `kind` is that of the data, `values` how many values an item has. `figures` holds what is measured
    beside the loss, each a list (s,) by its name; `reached` the same of the whole code alone.
    """

    items: int
    distortion: list[float | None]
    all: float | None
    usage: Tensor
    options: int
    normalised: bool
    values: int
    kind: str = "image"
    figures: dict[str, list[float | None]] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)

    def entropy_nats(self) -> list[float]:
        """Return the entropy of each stage's codes."""
        frequency = self.usage / self.usage.sum(1, keepdim=True)
        return torch.special.entr(frequency.double()).sum(1).tolist()

    def row(self) -> dict[str, Any]:
        """Return the training quantities; those of single stages only where every stage has a reconstruction."""
        counts = self.usage.sum(0).double()
        known = [value for value in self.distortion if value is not None]
        row: dict[str, Any] = {"choice": sum(known) / len(known)} if len(known) == len(self.distortion) else {}
        row["final"] = self.distortion[-1]
        if self.all is not None:
            row["all"] = self.all
        row["entropy_pooled_nats"] = torch.special.entr(counts / counts.sum()).sum().item()
        row["used"] = int((counts > 0).sum())
        return row

    def shared(self) -> dict[str, float | None]:
        """Return what the whole code's reconstruction is worth in units that all losses share, by the data's kind."""
        if "mse_pixels" in self.reached:
            return {**self.reached, "psnr_db": psnr_db(self.reached["mse_pixels"])}
        return dict(self.reached)

    def stages(self) -> list[dict[str, Any]]:
        """Return one row a stage: bits, distortion, figures, the bound where there is one, and the codes' usage."""
        rows = []
        for stage, (distortion, entropy) in enumerate(zip(self.distortion, self.entropy_nats(), strict=True)):
            row: dict[str, Any] = {
                "stage": stage + 1,
                "bits": (stage + 1) * log2(self.options),
                "distortion": distortion,
                **self._figures(stage),
            }
            if self.normalised:
                row |= self._bound(distortion, stage)
            row["entropy_nats"] = entropy
            row["entropy_bits"] = entropy / log(2)
            row["perplexity"] = exp(entropy)
            row["used"] = int((self.usage[stage] > 0).sum())
            rows.append(row)
        return rows

    def _figures(self, stage: int) -> dict[str, float | None]:
        row = {name: values[stage] for name, values in self.figures.items()}
        if "mse_pixels" in row:
            row["psnr_db"] = psnr_db(row["mse_pixels"])
        return row

    def _bound(self, distortion: float | None, stage: int) -> dict[str, float | None]:
        """Return the bound on an item's negative log-likelihood, under the uniform prior over codes."""
        each = "bound_bits_per_char" if self.kind == "text" else "bound_bits_per_dim"
        if distortion is None:
            return {"bound_nats": None, each: None}
        nats = distortion * self.values + (stage + 1) * log(self.options)
        return {"bound_nats": nats, each: nats / self.values / log(2)}


@torch.no_grad()
def evaluate(model: Model, split: Split, *, items: Tensor | None = None, batch: int | None = None) -> Evaluation:
    """Encode the items (indices; all by default) greedily, `batch` at a time, and score every option of every stage.

    A model that is not stepwise has no options to score: it encodes and decodes, and what is known is its last stage.
    """
    was_training = model.training
    model.eval()
    chosen = torch.arange(len(split)) if items is None else items
    final = model.stages if model.stepwise else 1
    distortion = torch.zeros(final, dtype=torch.float64)
    usage = torch.zeros(model.stages, model.options, dtype=torch.int64)
    total = 0.0
    reached: dict[str, float] = {}
    for raw in batches_of(split, chosen.split(batch or suited_batch(model))):
        target = model.data.normalise(raw.to(model.device), model.dtype)
        if model.stepwise:
            grids, codes, after = model.scored(target)
            distortion += grids.min(2).values.sum(0).double().cpu()
            total += grids.mean((1, 2)).sum().item()
            usage += usage_of(codes, model.options).cpu()
            after = after[:, None]
        else:
            codes = model.encode(target)
            after = model.decode(codes)[:, None]
            distortion += model.loss(after, target).sum(0).double().cpu()
            usage += usage_of(codes, model.options).cpu()
        for name, values in figures_of(model, after, target).items():
            reached[name] = reached.get(name, 0.0) + values.double().sum().item()
    model.train(was_training)
    return Evaluation(
        items=len(chosen),
        distortion=[None] * (model.stages - final) + (distortion / len(chosen)).tolist(),
        all=total / len(chosen) if model.stepwise else None,
        usage=usage,
        options=model.options,
        normalised=model.loss.normalised,
        values=prod(model.data.shape),
        kind=model.data.kind,
        reached={name: total / len(chosen) for name, total in reached.items()},
    )


def suited_batch(model: Model) -> int:
    """Return how many items to encode at a time: 100, or fewer where their proposals would take much memory."""
    most = MOST_PROPOSED.get(model.device.type, 1 << 28)
    return max(1, min(100, most // (model.options * prod(model.loss.shape))))


def fixed_subset(split: Split, items: int, seed: int) -> Tensor:
    """Return the indices of a seeded subset of a split, in a seeded order; all of it if it is no larger."""
    return torch.randperm(len(split), generator=generator(seed, "evaluate"))[:items]


Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Yields the parts of a piece of work, showing how far it is; the second argument says what it is."""


@dataclass(frozen=True)
class Pass:
    """What a pass over a split found; `codes` (n, stages) are those of the items, in their order, on the CPU."""

    evaluation: Evaluation
    rates: Rates
    codes: Tensor


def untracked(parts: Sequence[Any], what: str) -> Iterable[Any]:
    """Yield the parts, showing nothing."""
    return parts


@torch.no_grad()
def evaluate_fully(
    model: Model, split: Split, *, items: Tensor | None = None, batch: int | None = None, track: Track = untracked
) -> Pass:
    """Encode the items (indices; all by default) by the model's own search, `batch` at a time, and decode them.

    Distortion is the loss of the reconstruction after each stage, by `model.loss`.
    """
    model.eval()
    chosen = torch.arange(len(split)) if items is None else items
    size = min(batch or suited_batch(model), len(chosen))
    encode, decode = Stopwatch(model.device), Stopwatch(model.device)
    totals: dict[str, Tensor] = {}
    codes = []
    for target in targets(model, split, chosen, batch=size, track=track, what="test items"):
        codes.append(encode(len(target), partial(model.encode, target)))
        decode(len(target), partial(model.decode, codes[-1]))
        for name, values in stage_figures(model, codes[-1], target).items():
            totals[name] = totals.get(name, 0.0) + values.sum(0)
        codes[-1] = codes[-1].cpu()
    joined = torch.cat(codes)
    evaluation = _evaluation(model, {name: total / len(chosen) for name, total in totals.items()}, joined)
    return Pass(evaluation, rates(encode, decode, batch=size), joined)


@torch.no_grad()
def encode_all(
    model: Model,
    split: Split,
    *,
    items: Tensor,
    batch: int | None = None,
    track: Track = untracked,
    what: str = "items",
) -> Tensor:
    """Return the codes of the items (indices) of a split: (n, stages), on the CPU."""
    size = batch or suited_batch(model)
    parts = targets(model, split, items, batch=size, track=track, what=what)
    return torch.cat([model.encode(target).cpu() for target in parts])


def targets(model: Model, split: Split, items: Tensor, *, batch: int, track: Track, what: str) -> Iterator[Tensor]:
    """Yield the items (indices) of a split in training units on the model's device, `batch` at a time."""
    for raw in batches_of(split, track(items.split(batch), what)):
        yield model.data.normalise(raw.to(model.device), model.dtype)


def _evaluation(model: Model, means: dict[str, Tensor], codes: Tensor) -> Evaluation:
    figures = {
        name: [None] * (model.stages - len(values)) + [float(value) for value in values]
        for name, values in means.items()
    }
    return Evaluation(
        items=len(codes),
        distortion=figures.pop("distortion"),
        all=None,
        usage=usage_of(codes, model.options),
        options=model.options,
        normalised=model.loss.normalised,
        values=prod(model.data.shape),
        kind=model.data.kind,
        figures=figures,
        reached={name: float(values[-1]) for name, values in means.items() if name != "distortion"},
    )
