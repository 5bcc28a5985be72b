"""Processes that train one model together: what they exchange, and how they are started.

Each holds the whole model, passes over its rows of every batch, and takes the same step of the optimiser. The order of
the examples and all draws are those of one process, so the result is as well, but for rounding.

`DistributedDataParallel` sums gradients while the backward pass runs, by hooks on each weight. Recomputed stages add to
a weight's gradient once for each stage, and captured updates run no hooks, so both would miss it. Here the sum follows
the backward pass of an update's last piece, once for all pieces.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqtk.errors import LostError, RecipeError, VqtkError, VqtkWarning
from vqtk.process import STOPPING

Value = TypeVar("Value")
_CPU = torch.device("cpu")
BUCKET_BYTES = 25 << 20
"""The size from which gradients are sent as one message."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for another, which may be drawing images, before it ends."""


class Processes:
    """The processes that train one model; by default this one alone, for which every method returns at once.

    All of them call the same methods in the same order. Process 0 leads: it alone writes files and shows progress.

    Arguments:
        rank: the number of this process, from 0.
        size: how many there are.
        local_rank: its number among those on this machine.
        device: where it computes.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, local_rank: int = 0, device: torch.device = _CPU):
        self.rank, self.size, self.local_rank, self.device = rank, size, local_rank, device
        self.exchanges = size > 1  # Set it to try a backend on the only device.

    @property
    def leads(self) -> bool:
        """Whether this process writes and shows what the run does."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return which of a batch's `count` rows are this process's."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def check_divides(self, batch: int) -> None:
        """Raise RecipeError if a batch has no equal parts for all processes."""
        if batch % self.size:
            raise RecipeError(
                f"data.batch is {batch}, and {self.size} processes take equal parts of it. Use a multiple of "
                f"{self.size}, or another number of processes."
            )

    # ── tensors ──────────────────────────────────────────────────────────────────────────────────

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.exchanges:
            value = value.clone()
            with _exchanging():
                dist.all_reduce(value)
        return value

    def gathered(self, rows: Tensor) -> Tensor:
        """Return the rows (n, …) of all processes in their order: (size · n, …)."""
        if not self.exchanges:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with _exchanging():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each weight's gradient by the sum over the processes; None stays None if no process has one.

        Waits for the device only if a weight has no gradient here.
        """
        weights = [weight for weight in parameters if weight.requires_grad] if self.exchanges else []
        if not weights:
            return
        missing = [index for index, weight in enumerate(weights) if weight.grad is None]
        present = torch.ones(len(weights), device=weights[0].device)
        for index in missing:
            present[index] = 0
            weights[index].grad = torch.zeros_like(weights[index])
        values = [present, *(weight.grad for weight in weights if weight.grad is not None)]
        sums = [torch.cat([value.detach().flatten() for value in bucket]) for bucket in _buckets(values)]
        with _exchanging():
            for work in [dist.all_reduce(one, async_op=True) for one in sums]:
                work.wait()
        for bucket, one in zip(_buckets(values), sums, strict=True):
            for value, part in zip(bucket, one.split([value.numel() for value in bucket]), strict=True):
                value.detach().copy_(part.view(value.shape))
        for index in missing:
            if not present[index]:
                weights[index].grad = None

    def copy_from_first(self, module: nn.Module) -> None:
        """Give parameters and buffers the values of process 0."""
        if self.exchanges:
            with _exchanging():
                for value in [*module.parameters(), *module.buffers()]:
                    sent = value.detach().contiguous()
                    dist.broadcast(sent, 0)
                    value.detach().copy_(sent)

    # ── decisions ────────────────────────────────────────────────────────────────────────────────

    def any(self, asked: bool) -> bool:
        """Return whether a condition holds in any process. Does not wait for the device."""
        if not self.exchanges:
            return asked
        flag = torch.tensor(int(asked))
        with _exchanging():
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def of_first(self, value: Value) -> Value:
        """Return what process 0 passed: plain values, and tensors, which arrive on the CPU."""
        if not self.exchanges:
            return value
        buffer = io.BytesIO()
        if self.leads:
            torch.save(value, buffer)
        sent = [buffer.getvalue()]
        with _exchanging():
            dist.broadcast_object_list(sent, 0, device=torch.device("cpu"))
        return value if self.leads else torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=True)

    def of_each(self, value: Value) -> list[Value]:
        """Return what each process passed, in their order; tensors must be on the CPU."""
        found: list[Any] = [value] * self.size
        if self.exchanges:
            with _exchanging():
                dist.all_gather_object(found, value)
        return found

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process of each machine through the block before the others, e.g. to download data once."""
        if self.local_rank:
            self.any(False)
        yield
        if not self.local_rank:
            self.any(False)


def _buckets(values: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return tensors in groups of one type, each large enough to be worth a message."""
    found: list[list[Tensor]] = []
    size = 0
    for value in values:
        if not found or size > BUCKET_BYTES or found[-1][0].dtype != value.dtype:
            found.append([])
            size = 0
        found[-1].append(value)
        size += value.numel() * value.element_size()
    return found


@contextmanager
def _exchanging() -> Iterator[None]:
    """Explain what torch raises when another process has ended. Raises: LostError."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def computing() -> Iterator[None]:
    """Explain, among other errors of a computation, what torch raises when another process has ended.

    Raises: LostError.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(library in str(error) for library in ("gloo", "NCCL")):
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> LostError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return LostError(
        f"the connection to another process of this run was lost ({reason[:200]}): it failed, was stopped, or the "
        "network did."
    )


# ── joining ──────────────────────────────────────────────────────────────────────────────────────


def launch_id() -> str | None:
    """Return what identifies the launch by torchrun or --devices that started this process, or started it again.

    None if neither did.
    """
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()}:{os.getppid()}" if given == "none" else given


def follows() -> bool:
    """Return whether another process leads the run, as the environment that torchrun sets says."""
    return _number("WORLD_SIZE", 1) > 1 and _number("RANK", 0) > 0


@contextmanager
def together(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started beside this one, for the context; without any, this one is alone.

    Raises: VqtkError if this machine has too few GPUs; LostError if another process ends within the context.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1 or not dist.is_available():
        yield Processes(device=device)
        return
    rank, local_rank = _number("RANK", 0), _number("LOCAL_RANK", 0)
    own = _own_device(device, local_rank)
    with warnings.catch_warnings():
        if rank:
            warnings.simplefilter("ignore", VqtkWarning)
        joins = not dist.is_initialized()
        if joins:
            backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
            with _exchanging():
                dist.init_process_group(backend, timeout=PATIENCE)
        try:
            yield Processes(dist.get_rank(), dist.get_world_size(), local_rank=local_rank, device=own)
        finally:
            if joins:
                dist.destroy_process_group()


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    if device.type == "mps":
        raise VqtkError("--device mps: several processes train on CPUs or CUDA devices. Use --device cpu.")
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise VqtkError(f"--device {device}: each of several processes takes a GPU of its own. Use --device cuda.")
    if local_rank >= torch.cuda.device_count():
        raise VqtkError(
            f"there are {torch.cuda.device_count()} GPUs for {local_rank + 1} or more processes on this machine. "
            "Start as many as there are GPUs, or use --device cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _number(name: str, default: int) -> int:
    given = os.environ.get(name) or str(default)
    if not given.isdecimal():
        raise VqtkError(f"the environment variable {name} is {given!r:.50}: expected a number, as torchrun sets it.")
    return int(given)


# ── starting ─────────────────────────────────────────────────────────────────────────────────────


def launch(devices: int, *, restarts: int, device: torch.device) -> int:
    """Run this command in `devices` processes on this machine, as torchrun does; return its exit code.

    Arguments:
        devices: the number of processes.
        restarts: how often they are started again after one of them has failed.
        device: auto's choice, or the device asked for.

    Raises: VqtkError if this machine has too few GPUs, or a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if device.type == "cuda" and devices > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise VqtkError(f"--devices {devices}: this machine has {there} GPUs. Give {there}, or use --device cpu.")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // devices)))
    for name in ("agent.server.api", "multiprocessing.api"):  # The processes explain themselves.
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        signals_to_handle=",".join(signal.Signals(number).name for number in STOPPING),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "vqtk", *sys.argv[1:])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        if first.exitcode > 0:
            return first.exitcode
        name = signal.Signals(-first.exitcode).name
        again = f", and they were started again {restarts} times before" if restarts else ""
        raise VqtkError(
            f"process {rank} of {devices} was ended by {name}{again}. Resume the run from its newest checkpoint: vqtk "
            "run --resume RUN."
        ) from None
    return 0
