"""One pass over a split: rate, distortion, code usage and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import log, log2, prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from vqtk.datasets import Split, batches_of
from vqtk.metrics import (
    LossMetric,
    Measured,
    Metric,
    ReconstructionMetric,
    UsageMetric,
    measure,
    measure_stages,
    routine_metrics,
)
from vqtk.models import Model, usage_of
from vqtk.nn.types import DataSpec
from vqtk.registry import metrics
from vqtk.training.distributed import Processes
from vqtk.training.execution import synchronize

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """Examples per second, as medians over `batches` batches of `batch`; `warmed_up` if a first one was left out."""

    encode_items_per_s: float
    decode_items_per_s: float
    batch: int
    batches: int
    warmed_up: bool
    threads: int
    device: str

    def plain(self) -> dict[str, Any]:
        """Return the rates as JSON values."""
        return asdict(self)


class Stopwatch:
    """Times calls on a device, in examples per second."""

    def __init__(self, device: torch.device):
        self.device = device
        self.items_per_s: list[float] = []

    def __call__(self, items: int, call: Callable[[], Result]) -> Result:
        """Return what the call returns, and record how long it took for its number of examples."""
        synchronize(self.device)
        started = time.perf_counter()
        result = call()
        synchronize(self.device)
        self.items_per_s.append(items / (time.perf_counter() - started))
        return result

    def median(self) -> float:
        """Return the median rate without the first call, which warms up, unless it is the only one."""
        return statistics.median(self.items_per_s[1:] or self.items_per_s)


def rates(encode: Stopwatch, decode: Stopwatch, *, batch: int) -> Rates:
    """Return the rates that two stopwatches measured on batches of `batch` examples."""
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


Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Yields the parts of some work and shows its progress; the second argument names the work."""


def untracked(parts: Sequence[Any], what: str) -> Iterable[Any]:
    """Yield the parts without showing progress."""
    return parts


MOST_PROPOSED = {"cpu": 1 << 21}
"""The most values of a batch's proposals, by device: on the CPU they should fit its cache, which makes the encoding
of digits a third faster than in batches of 100."""


_Sums = tuple[dict[str, Tensor], float, list[Tensor]]
"""Sums of metrics over examples by name, the sum of their grids' means, and their codes."""
_LOGGED = ("choice", "final", "all", "entropy_pooled_nats", "used")
_OF_A_STAGE = ("entropy_nats", "entropy_bits", "perplexity", "used")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split, averaged over its examples; losses are in units of the model's loss.

    Arguments:
        items: the number of examples.
        distortion: (s,), the smallest loss at each stage, None for stages that the model cannot decode.
        all: the mean loss over every option, None if only chosen options were scored.
        usage: (s, k), how often each option was chosen.
        options: the number of options.
        normalised: whether the loss is a negative log-likelihood of the data.
        data: what the examples are.
        after: the metrics of reconstructions after each stage by name, each a list (s,), if they were measured.
        reached: the same metrics of the whole code.
        codes: (n, s) of the examples, in their order, on the CPU.
        rates: how fast they were encoded and decoded, if that was timed.
    """

    items: int
    distortion: list[float | None]
    all: float | None
    usage: Tensor
    options: int
    normalised: bool
    data: DataSpec
    after: dict[str, list[float | None]] = field(default_factory=dict)
    reached: dict[str, float | None] = field(default_factory=dict)
    codes: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    rates: Rates | None = None

    def row(self) -> dict[str, Any]:
        """Return the metrics that training logs; `choice` only if every stage has a reconstruction."""
        found = {name: self.value(metrics.get(name).component(self.data)) for name in _LOGGED}
        return {name: value for name, value in found.items() if value is not None}

    def value(self, metric: Metric) -> float | None:
        """Return a metric of the loss or of the code usage. Raises: TypeError for another kind of metric."""
        if isinstance(metric, UsageMetric):
            return metric.measure(self.usage)
        if isinstance(metric, LossMetric):
            return metric.measure(self.distortion, self.all)
        raise TypeError(f"{type(metric).__name__} is computed from other things")

    def stages(self) -> list[dict[str, Any]]:
        """Return a row for each stage: bits, distortion, other metrics, the bound if there is one, and code usage."""
        usage = {name: metrics.get(name).component(self.data) for name in _OF_A_STAGE}
        rows = []
        for stage, distortion in enumerate(self.distortion):
            row: dict[str, Any] = {
                "stage": stage + 1,
                "bits": (stage + 1) * log2(self.options),
                "distortion": distortion,
                **{name: values[stage] for name, values in self.after.items()},
            }
            if self.normalised:
                row |= self._bound(distortion, stage)
            rows.append(row | {name: metric.measure(self.usage[stage : stage + 1]) for name, metric in usage.items()})
        return rows

    def _bound(self, distortion: float | None, stage: int) -> dict[str, float | None]:
        """Return the bound on an example's negative log-likelihood, under the uniform prior over codes."""
        each = "bound_bits_per_char" if self.data.kind == "text" else "bound_bits_per_dim"
        values = prod(self.data.shape)
        if distortion is None:
            return {"bound_nats": None, each: None}
        nats = distortion * values + (stage + 1) * log(self.options)
        return {"bound_nats": nats, each: nats / values / log(2)}


@torch.no_grad()
def evaluate(
    model: Model,
    split: Split,
    *,
    items: Tensor | None = None,
    batch: int | None = None,
    searched: bool = False,
    others: Mapping[str, ReconstructionMetric] | None = None,
    track: Track = untracked,
    processes: Processes | None = None,
) -> Evaluation:
    """Encode and decode examples of a split, and measure rate and distortion.

    By default one greedy encoding pass scores every option of every stage, and the whole code's reconstruction is
    measured. A model that is not stepwise has no options to score, and is measured at its last stage only.

    Arguments:
        model: the model.
        split: the examples.
        items: their indices; by default all.
        batch: the number of examples at a time.
        searched: whether to encode by the model's own search, measure the reconstruction after every stage, and time
            encoding and decoding.
        others: metrics of reconstructions to measure besides the routine ones, by name.
        track: shows the progress.
        processes: those that evaluate together, each a part of the examples; by default this one alone.
    """
    was_training, processes = model.training, processes or Processes()
    model.eval()
    chosen = torch.arange(len(split)) if items is None else items
    size = min(batch or suited_batch(model), len(chosen))
    encode, decode = Stopwatch(model.device), Stopwatch(model.device)
    totals: dict[str, Tensor] = {}
    wanted = {**routine_metrics(model), **(others or {})}
    every, codes = 0.0, []
    own = chosen.tensor_split(processes.size)[processes.rank]
    for target in targets(model, split, own, batch=size, track=track, what="test examples"):
        if searched:
            found = encode(len(target), partial(model.encode, target))
            decode(len(target), partial(model.decode, found))
            measured = measure_stages(model, found, target, others)
        else:
            found, measured, mean = _walked(model, target, others)
            every += mean * len(target)
        codes.append(found.cpu())
        for name, values in measured.items():
            totals[name] = totals.get(name, 0.0) + values.double().sum(0).cpu()
    model.train(was_training)
    totals, every, codes = _added(processes.of_each((totals, every, codes)))
    joined = torch.cat(codes)
    means = {name: (total / len(chosen)).tolist() for name, total in totals.items()}
    return Evaluation(
        items=len(chosen),
        distortion=_at_the_end(means["distortion"], model.stages),
        all=every / len(chosen) if model.stepwise and not searched else None,
        usage=usage_of(joined, model.options),
        options=model.options,
        normalised=model.loss.normalised,
        data=model.data,
        after={
            name: _at_the_end(list(map(metric.total, means[name])), model.stages)
            for name, metric in wanted.items()
            if searched
        },
        reached={name: metric.total(means[name][-1]) for name, metric in wanted.items()},
        codes=joined,
        rates=rates(encode, decode, batch=size) if searched else None,
    )


def _added(parts: Sequence[_Sums]) -> _Sums:
    """Return the sums over parts of the examples, and the codes of all; a part may be empty."""
    totals: dict[str, Tensor] = {}
    for part, _, _ in parts:
        for name, values in part.items():
            totals[name] = totals.get(name, 0.0) + values
    return totals, sum(every for _, every, _ in parts), [one for _, _, codes in parts for one in codes]


def _walked(
    model: Model, target: Tensor, others: Mapping[str, ReconstructionMetric] | None
) -> tuple[Tensor, Measured, float]:
    """Return the codes of a greedy pass, its metrics (the distortion after each stage), and the mean of its grids."""
    if model.stepwise:
        grids, codes, after = model.scored(target)
        distortion, mean = grids.min(2).values, grids.mean().item()
    else:
        codes = model.encode(target)
        after = model.decode(codes)
        distortion, mean = model.loss(after[:, None], target), 0.0
    return codes, {"distortion": distortion, **measure(model, after[:, None], target, others)}, mean


def _at_the_end(values: Sequence[float | None], stages: int) -> list[float | None]:
    """Return values of the last stages as a list over all stages, with None for the others."""
    return [*[None] * (stages - len(values)), *values]


def suited_batch(model: Model) -> int:
    """Return how many examples to encode at a time: 100, or fewer if their proposals would take much memory.

    A search that gains from more at once, and bounds its memory itself, says how many.
    """
    wanted = getattr(getattr(model, "search", None), "examples_at_once", None)
    if wanted is not None:
        return wanted(model)
    most = MOST_PROPOSED.get(model.device.type, 1 << 28)
    return max(1, min(100, most // (model.options * prod(model.loss.shape))))


@torch.no_grad()
def encode_all(
    model: Model,
    split: Split,
    *,
    items: Tensor,
    batch: int | None = None,
    track: Track = untracked,
    what: str = "examples",
) -> Tensor:
    """Return the codes of examples (indices) of a split: (n, stages), on the CPU."""
    size = batch or suited_batch(model)
    parts = targets(model, split, items, batch=size, track=track, what=what)
    return torch.cat([model.encode(target).cpu() for target in parts])


def targets(model: Model, split: Split, items: Tensor, *, batch: int, track: Track, what: str) -> Iterator[Tensor]:
    """Yield examples (indices) of a split in training units on the model's device, `batch` at a time."""
    for raw in batches_of(split, track(items.split(batch), what)):
        yield model.data.normalise(raw.to(model.device), model.dtype)
