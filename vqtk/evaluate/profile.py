"""Where the time of an update goes, and which share of the device's peak it reaches."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vqtk.recipe.affordable import check_update
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.validate import synthetic
from vqtk.train.device import synchronize
from vqtk.train.execution import Execution, resolve
from vqtk.train.loop import Trainer

_KINDS = (
    ("convolution, backward", ("convolution_backward", "dgrad", "wgrad")),
    ("convolution", ("conv", "mkldnn_convolution", "fprop")),
    ("matrix product", ("bmm", "mm", "gemm", "linear", "matmul")),
    ("compiled elementwise", ("triton", "graph_", "cpp_fused", "compiledfunction", "torch-compiled")),
    ("optimiser", ("adam",)),
    ("copy", ("copy", "memcpy", "clone", "contiguous", "memset", "zero_", "fill_")),
    ("norm", ("norm",)),
)
"""Kinds of work by words in the names of operations and kernels; the first that fits counts."""
_ROUNDS = 5


@dataclass(frozen=True)
class Profile:
    """Where an update's time goes: `shares` by kind of work, largest first, `slowest` by operation, in ms.

    `flops` are those of the products of an update, `flops_per_s` what it reaches, `peak_flops_per_s` what one large
    product reaches here in the same precision, `peak_bytes_per_s` what a large copy moves.
    """

    update_ms: float
    shares: dict[str, float]
    slowest: dict[str, float]
    flops: int
    flops_per_s: float
    peak_flops_per_s: float
    peak_bytes_per_s: float

    @property
    def share_of_peak(self) -> float:
        """The part of the peak that an update reaches."""
        return self.flops_per_s / self.peak_flops_per_s

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "share_of_peak": self.share_of_peak}


def profile_update(recipe: Recipe, *, batch: int, device: torch.device) -> Profile:
    """Profile an update of `batch` synthetic examples, computed as the recipe says."""
    model = build_model(recipe, device=device)
    check_update(recipe, model, batch=batch)
    target = synthetic(model.data, batch).to(device)
    execution = resolve(recipe, model)
    trainer = Trainer(recipe, model, execution)

    def update() -> None:
        trainer.update([target], updates=10**9)
        synchronize(device)

    update()
    seconds = _median_s(update)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")  # There is one cycle.
        with profile(activities=activities) as profiled:
            update()
    spent = {event.key: _self_ms(event, device) for event in profiled.key_averages()}
    kinds: Counter[str] = Counter()
    for name, milliseconds in spent.items():
        kinds[_kind(name)] += milliseconds  # type: ignore[assignment]
    total = sum(spent.values()) or 1.0
    flops = _flops(recipe, target)
    dtype = torch.bfloat16 if execution.precision == "bfloat16" else torch.float32
    product, copy = peaks(device, dtype)
    return Profile(
        update_ms=1e3 * seconds,
        shares={kind: milliseconds / total for kind, milliseconds in kinds.most_common()},
        slowest=dict(sorted(spent.items(), key=lambda pair: -pair[1])[:8]),
        flops=flops,
        flops_per_s=flops / seconds,
        peak_flops_per_s=product,
        peak_bytes_per_s=copy,
    )


def peaks(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure and return the operations a second of a large matrix product, and the bytes a second of a large copy."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros((1 << 30 if device.type == "cuda" else 1 << 27) // 4, device=device)
    target = torch.empty_like(source)

    def multiply() -> None:
        torch.mm(left, right)
        synchronize(device)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    multiply()
    copy()
    return 2 * side**3 / _median_s(multiply), 2 * 4 * source.numel() / _median_s(copy)


def _flops(recipe: Recipe, target: torch.Tensor) -> int:
    """Return the operations of an update, counted on plain code: compiled code and graphs hide them."""
    trainer = Trainer(recipe, build_model(recipe, device=target.device), Execution())
    with FlopCounterMode(display=False) as counter:
        trainer.update([target], updates=10**9)
    return counter.get_total_flops()


def _kind(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, words in _KINDS if any(word in lowered for word in words)), "elementwise and others")


def _self_ms(event: Any, device: torch.device) -> float:
    microseconds = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    return microseconds / 1e3


def _median_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[_ROUNDS // 2]
