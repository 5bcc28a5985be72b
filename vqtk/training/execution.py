"""How a run is computed: its device, precision, compilation and recomputation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.models import CompiledStage, Model
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.convolution import channels_last, prefers_channels_last
from vqtk.nn.graph import CapturedCalls, CudaRecorder
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu, cuda, cuda:N or mps; auto takes the fastest present. Raises: VqtkError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    kind, colon, index = name.partition(":")
    if kind not in present or (colon and not (kind == "cuda" and index.isdecimal() and len(index) < 4)):
        raise VqtkError(f"--device {name[:50]!r}: expected auto, cpu, cuda, cuda:N or mps.")
    if not present[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise VqtkError(f"--device {name}: torch finds no such device here. Present: {there}.")
    if kind == "cuda":
        # Convolutions in TF32 change the code of one example in eight; training uses it only by `precision: tf32`.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work, so that a clock read next includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process so far, in 10⁶ bytes: on CUDA the device's, otherwise the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Not Unix: the host's peak is unknown.
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


WORTH_COMPILING_S = {"cpu": 1800.0, "cuda": 120.0}
"""Estimated seconds of training from which `auto` compiles: a few times what compilation takes."""
ASSUMED_FLOPS_PER_S = {"cpu": 1e11, "cuda": 2e13}
"""Operations per second that the estimate assumes of any device, so that it does not vary from time to time."""
WORTH_CAPTURING = 100
"""The number of updates from which `auto` captures on CUDA."""
MEMORY_SHARE = 0.6
"""The part of a device's memory that activations may take before `auto` recomputes stages."""


@dataclass(frozen=True)
class Execution:
    """How updates are computed.

    Arguments:
        inductor: whether the stages are compiled.
        graph: whether whole updates are captured as CUDA graphs.
        precision: float32, tf32 or bfloat16.
        recompute: how many of the first stages recompute their activations in the backward pass.
        channels_last: whether the filters of images have their channels innermost in memory; vector units, AMX and
            tensor cores multiply along these.
        notes: lines for the user.
    """

    inductor: bool = False
    graph: bool = False
    precision: str = "float32"
    recompute: int = 0
    channels_last: bool = False
    notes: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """Return the values that the manifest records."""
        return {key: value for key, value in asdict(self).items() if key != "notes"}


def resolve(
    recipe: Recipe,
    model: Model,
    *,
    recorded: dict[str, Any] | None = None,
    expected_s: float | None = None,
    processes: int = 1,
) -> Execution:
    """Return how a recipe is computed on the model's device.

    Arguments:
        recorded: the record in the manifest of a resumed run, which takes precedence; runs of older versions have none.
        expected_s: how long the training will take, in seconds; by default estimated from the recipe.
        processes: how many processes train together, each on its part of every batch.
    """
    shards = recipe.train.shard and processes > 1
    own = Execution().recorded()
    if isinstance(recorded, dict) and {key: type(value) for key, value in recorded.items()} == {
        key: type(own[key]) for key in own
    }:
        return _supported_on(model.device, Execution(**recorded), shards=shards)
    device = model.device
    precision = recipe.train.precision
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) else "float32"
    inductor, graph, notes = _compilation(recipe, model, precision, expected_s, processes)
    if recipe.train.shard and processes == 1:
        notes.append("`shard`: this run has one process, which holds all weights.")
    execution = Execution(
        inductor=inductor,
        graph=graph,
        precision=precision,
        recompute=_recomputed_stages(recipe, model, device, processes),
        channels_last=precision == "bfloat16" or prefers_channels_last(model),
        notes=tuple(notes),
    )
    return _supported_on(device, execution, shards=shards)


def _supported_on(device: torch.device, execution: Execution, *, shards: bool) -> Execution:
    """Return the part of an execution that this device supports; the run may have been started on another one.

    With `shards`, weights are held in parts: they are contiguous, and have no fixed place in memory.
    """
    return replace(
        execution,
        graph=execution.graph and device.type == "cuda" and not shards,
        inductor=execution.inductor and not shards and _no_compiler(device.type) is None,
        channels_last=execution.channels_last and not shards,
    )


def prepare(execution: Execution, model: Model, batch: int) -> None:
    """Set a model up for an execution; `batch` is the number of examples that are computed at a time."""
    device = model.device
    if device.type == "cuda":
        tf32 = execution.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if execution.channels_last:
        channels_last(model)
    if not isinstance(model, VQDraw):
        return
    if execution.inductor:
        model.compiled = CompiledStage(model.loss, batch)
    if execution.graph:
        model.captured_calls = CapturedCalls(CudaRecorder())  # For the evaluations and images during the run.


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _compilation(
    recipe: Recipe, model: Model, precision: str, expected_s: float | None, processes: int
) -> tuple[bool, bool, list[str]]:
    """Return whether to compile and whether to capture, and lines for the user about it."""
    asked, device, notes = recipe.train.compile, model.device, list[str]()
    if recipe.train.shard and processes > 1:
        return False, False, notes
    graph = device.type == "cuda" and (
        "graph" in asked or (asked == "auto" and recipe.train.updates >= WORTH_CAPTURING)
    )
    if "graph" in asked and not graph:
        notes.append(f"`compile: {asked}`: graphs need CUDA, and this run is on {device.type}.")
    # In float32 a CPU spends its time in convolutions, which compilation does not change.
    if "inductor" not in asked and (asked != "auto" or (device.type == "cpu" and precision != "bfloat16")):
        return False, graph, notes
    reason = None if isinstance(model, VQDraw) else f"{type(model).__name__} has no stages"
    reason = reason or _no_compiler(device.type)  # To look for a compiler takes seconds.
    if "inductor" in asked:
        if reason:
            notes.append(f"`compile: {asked}`: {reason}, so the update is not compiled.")
        return reason is None, graph, notes
    if reason:
        return False, graph, notes
    if expected_s is None:
        # Counting operations takes a second for the largest recipes; a short run shows by its number of updates.
        short = recipe.train.updates * recipe.train.accumulate < WORTH_CAPTURING
        expected_s = 0.0 if short else _training_s(recipe, device.type) / processes
    worth = expected_s >= WORTH_COMPILING_S.get(device.type, float("inf"))
    if worth:
        notes.append("This is a long run, so its stages are compiled; the first update takes about a minute.")
    return worth, graph, notes


@cache
def _no_compiler(device: str) -> str | None:
    """Return why inductor cannot compile for a device; None if it can."""
    if device == "cuda":
        return None if find_spec("triton") else "Triton is not installed"
    if device != "cpu":
        return f"inductor does not compile for {device}"
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception:  # Whatever it raises, it found no compiler that works.
        return "there is no C++ compiler (set CXX, or install g++)"
    return None


def flops_of(work: Callable[[], object]) -> int:
    """Return the operations of a piece of work's products, 2 for each multiply–add."""
    from torch.utils.flop_counter import FlopCounterMode  # It imports Triton, which takes a moment.

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _training_s(recipe: Recipe, device: str) -> float:
    """Return an estimate of the seconds of all updates, which depends only on the recipe and the kind of device."""
    model = cast(VQDraw, build_model(recipe, device="meta")).eval()
    with torch.no_grad():
        counted = flops_of(lambda: model.walk(_meta_target(model, 2), stages=range(min(2, model.stages))))
    each_stage = counted / 3  # The first stage is computed for one example, the second for two.
    settings = recipe.train
    examples = settings.updates * settings.accumulate * recipe.batch
    return 3 * each_stage * model.stages * examples / ASSUMED_FLOPS_PER_S.get(device, 1e11)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def _recomputed_stages(recipe: Recipe, model: Model, device: torch.device, processes: int) -> int:
    """Return how many of the first stages the backward pass recomputes."""
    asked, stages = recipe.train.gradient_checkpointing, model.stages
    if not isinstance(model, VQDraw) or asked is False:
        return 0
    if asked is True:
        return stages
    if asked == "auto":
        rows = recipe.batch // processes
        piece = min(recipe.train.micro_batch or rows, rows)
        each, most = _stage_bytes(recipe) * piece, MEMORY_SHARE * _memory(device)
        return 0 if each * stages <= most else stages - min(stages, max(1, int(most / each)))
    return max(0, stages - asked)


def _stage_bytes(recipe: Recipe) -> float:
    """Return the bytes that one stage keeps for the backward pass per example, counted on tensors without storage."""
    model = cast(VQDraw, build_model(recipe, device="meta"))
    with torch.no_grad():
        entered = model.walk(_meta_target(model, 2), stages=[0])
    kept: dict[int, int] = {}
    weights = {value.untyped_storage()._cdata for value in model.parameters()}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        alive.append(value)  # A freed storage's address could be reused by the next one, which would not be counted.
        return value

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        state = entered.reconstruction.requires_grad_(), entered.state
        model.walk(_meta_target(model, 2), stages=[min(1, model.stages - 1)], start=state)
    return sum(kept.values()) / 2


def _meta_target(model: Model, n: int) -> Tensor:
    dtype = torch.int64 if model.data.classes is not None else torch.get_default_dtype()
    return torch.zeros(n, *model.data.shape, dtype=dtype, device="meta")


def _memory(device: torch.device) -> float:
    """Return the bytes of a device's memory; half of the host's, which other processes need as well."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    return 4e9
