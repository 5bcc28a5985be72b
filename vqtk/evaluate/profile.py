"""The cost of an update: where its time goes, its operations, and its memory."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqtk.models import Model
from vqtk.recipe.affordable import check_update
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe
from vqtk.training.execution import Execution, flops_of, resolve, synchronize
from vqtk.training.loop import Trainer

_KINDS = (
    ("convolution, backward", ("convolution_backward", "dgrad", "wgrad")),
    ("convolution", ("conv", "mkldnn_convolution", "fprop")),
    ("matrix product", ("bmm", "mm", "gemm", "linear", "matmul")),
    ("compiled elementwise", ("triton", "graph_", "cpp_fused", "compiledfunction", "torch-compiled")),
    ("optimiser", ("adam",)),
    ("copy", ("copy", "memcpy", "clone", "contiguous", "memset", "zero_", "fill_")),
    ("norm", ("norm",)),
)
"""Kinds of work, recognised by words in the names of operations and kernels; the first match counts."""
_ROUNDS = 5


@dataclass(frozen=True)
class Profile:
    """Where the time of an update goes.

    Arguments:
        update_ms: the time of an update, in ms.
        shares: its parts by kind of work, largest first.
        slowest: the slowest operations, in ms.
        flops: the operations of its products and convolutions.
        flops_per_s: these operations per second of the update.
        peak_flops_per_s: those that one large matrix product reaches on this device in the same precision.
        peak_bytes_per_s: the bytes per second that a large copy moves.
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
        """The fraction of the peak that an update reaches."""
        return self.flops_per_s / self.peak_flops_per_s

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values."""
        return {**asdict(self), "share_of_peak": self.share_of_peak}


def profile_update(recipe: Recipe, *, batch: int, device: torch.device) -> Profile:
    """Profile an update on `batch` synthetic examples, computed as the recipe asks."""
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
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")  # Irrelevant: there is only one cycle.
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
    """Measure the operations per second of a large matrix product, and the bytes per second of a large copy."""
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
    """Return the operations of an update, counted on uncompiled code: compiled code and graphs hide them."""
    trainer = Trainer(recipe, build_model(recipe, device=target.device), Execution())
    return flops_of(lambda: trainer.update([target], updates=10**9))


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


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """Yield a list that receives, at the end of the block, the peak bytes of the tensors created within it.

    On CUDA the allocator counts them. Elsewhere the results of operations are counted, but not what compiled code
    allocates internally.
    """
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with _Counting() as counting:
        yield found
    found.append(counting.peak)


class _Counting(TorchDispatchMode):
    """Counts the bytes of the storages that operations return, from their creation until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.held = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage(), given)
        return output

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self.known or key in given:
            return
        self.known.add(key)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.held -= size


def parameters_by_part(model: Model) -> dict[str, int]:
    """Return the number of parameters of each part of a model; the refiners' are summed over segments."""
    parts: dict[str, int] = {}
    for name, value in model.named_parameters():
        part = re.sub(r"^refiners\.\d+\.", "", name).split(".")[0]
        parts[part] = parts.get(part, 0) + value.numel()
    return parts


def total_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def flops(recipe: Recipe, calls: Sequence[str] = ("encode", "decode")) -> dict[str, int]:
    """Return the operations of encoding and of decoding one example, or of the one that `calls` names.

    Each multiply–add of a convolution or product counts as 2. They are counted on tensors without storage, so that even
    the largest recipe needs no memory.
    """
    model = build_model(recipe, device="meta").eval().requires_grad_(False)
    with torch.no_grad():
        target = synthetic(model.data, 1).to("meta")
        codes = torch.zeros(1, model.stages, dtype=torch.int64, device="meta")
        work = {"encode": lambda: model.encode(target), "decode": lambda: model.decode(codes)}
        return {call: flops_of(work[call]) for call in calls}
