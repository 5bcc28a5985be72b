"""What trains the runs of a study: processes on this machine, or a Ray cluster. `slurm.py` has a third."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqtk.errors import LockedError, VqtkError
from vqtk.nn.types import Count, Whole
from vqtk.study.state import LOCKED, Event, Settings, read_state

POLL_S = 0.2
LOG = "worker.log"


class Local:
    """An executor of `workers` processes: by default one for each GPU, or one for every two cores.

    Arguments:
        settings: of the workers.
        workers: the number of processes. If there are more than GPUs, they share these.
        devices: the GPUs, as CUDA_VISIBLE_DEVICES names them; by default all that may be used.
        name: what the states of runs call its workers.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int | None = None,
        devices: list[str] | None = None,
        name: str = "local",
    ):
        self.gpus, self.name = gpus(settings.device) if devices is None else devices, name
        cores = usable_cores()
        self.workers = workers or len(self.gpus) or max(1, cores // 2)
        self.threads = settings.threads or max(1, cores // self.workers)
        self.settings = replace(settings, threads=self.threads)
        self._waiting: list[Path] = []
        self._running: dict[int, tuple[Path, subprocess.Popen[bytes]]] = {}

    def submit(self, run: Path) -> None:
        """Start a run when a process is free."""
        self._waiting.append(run)

    def events(self) -> Iterator[Event | None]:
        """Yield the runs that start and end, and None every moment."""
        while self._waiting or self._running:
            for slot in range(self.workers):
                if slot in self._running and (ended := self._ended(slot)):
                    yield ended
                if slot not in self._running and self._waiting:
                    yield self._begin(slot, self._waiting.pop(0))
            yield None
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Start no other run."""
        self._waiting.clear()

    def interrupt(self) -> None:
        """Ask the processes to end with a checkpoint."""
        for _, process in self._running.values():
            process.terminate()

    def kill(self) -> None:
        """End the processes at once."""
        for _, process in self._running.values():
            process.kill()

    def _begin(self, slot: int, run: Path) -> Event:
        worker = f"{self.name} {slot}"
        options = ["--device", self.settings.device, "--threads", str(self.threads), "--worker", worker]
        options += ["--parent", str(os.getpid())]
        if self.settings.data_dir:
            options += ["--data-dir", str(self.settings.data_dir)]
        with (run / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vqtk.study.worker", str(run), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(slot),
            )  # fmt: skip
        self._running[slot] = (run, process)
        return Event(run, "begun", worker)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONSAFEPATH": "1"}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _ended(self, slot: int) -> Event | None:
        run, process = self._running[slot]
        code = process.poll()
        if code is None:
            return None
        del self._running[slot]
        return Event(run, "ended", f"{self.name} {slot}", _failure(code, run / LOG))


def _failure(code: int, log: Path) -> str | None:
    if code in (0, LOCKED):
        return None
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}. See {log}. With --retry it resumes from its checkpoint."
    return f"its process ended with code {code}. See {log}."


def gpus(device: str) -> list[str]:
    """Return the CUDA devices that may be used, as CUDA_VISIBLE_DEVICES names them; none if `device` is another."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


def usable_cores() -> int:
    """Return how many cores this process may use; OMP_NUM_THREADS, if it is set, is no more than that."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores


RAY_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How runs are trained on a Ray cluster.

    Arguments:
        address: of the cluster, `auto` for the one that this machine belongs to; None for $RAY_ADDRESS or, without it,
            a new cluster of this machine alone.
        per_gpu: runs that share a GPU, if the device is cuda, or auto and the cluster has any.
        retries: how often Ray restarts a run whose process or machine was lost.
    """

    address: str | None = None
    per_gpu: Count = 1
    retries: Whole = 3


class Ray:
    """An executor on a Ray cluster. A run that is restarted resumes from its checkpoint.

    Raises: VqtkError if there is no cluster at the address.
    """

    def __init__(self, settings: Settings, cluster: RaySettings, *, workers: int | None = None):
        address, cpus = cluster.address or os.environ.get("RAY_ADDRESS"), settings.threads or 1
        self.ray = _connected(address, cpus, workers)
        resources = self.ray.cluster_resources()
        gpus = 1 / cluster.per_gpu if _on_gpu(settings.device, resources) else 0
        room = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) / cpus
        self.workers = workers or max(1, int(room))
        data_dir = settings.data_dir and settings.data_dir.resolve()
        self.settings = replace(settings, data_dir=data_dir, threads=cpus)
        task = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=cluster.retries, retry_exceptions=False)
        self._task = task(_train)
        self._waiting: list[Path] = []
        self._running: dict[Any, Path] = {}

    def submit(self, run: Path) -> None:
        """Start a run when the cluster has room."""
        self._waiting.append(run)

    def events(self) -> Iterator[Event | None]:
        """Yield the runs that are handed to Ray and that end, and None every moment."""
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self.workers:
                run = self._waiting.pop(0)
                self._running[self._task.remote(str(run.resolve()), self.settings)] = run
                yield Event(run, "begun", "ray")
            ended, _ = self.ray.wait(list(self._running), timeout=RAY_POLL_S)
            for task in ended:
                yield Event(self._running.pop(task), "ended", "ray", self._error(task))
            yield None

    def stop(self) -> None:
        """Start no other run."""
        self._waiting.clear()

    def kill(self) -> None:
        """End the tasks at once."""
        for task in self._running:
            self.ray.cancel(task, force=True)

    def _error(self, task: Any) -> str | None:
        try:
            self.ray.get(task)
        except Exception as error:
            reason = " ".join(str(error).split())
            return f"Ray lost it ({type(error).__name__}): {reason[:300]}"
        return None


def _train(run: str, settings: Settings) -> str:
    from vqtk.study.worker import train_run

    try:
        return train_run(Path(run), settings, worker="ray").state
    except LockedError:  # Another process trains it, and records how it ends.
        return read_state(Path(run)).state


def _connected(address: str | None, threads: int, workers: int | None) -> Any:
    try:
        import ray
    except ImportError:
        raise VqtkError("--executor ray needs Ray, which is not installed: pip install 'vqtk[ray]'.") from None
    cpus = {"num_cpus": threads * workers} if workers else {}
    own: dict[str, Any] = {} if address else {"include_dashboard": False, **cpus}
    try:
        ray.init(address=address or "local", log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise VqtkError(
            f"--executor ray: no cluster at {address or 'this machine'}: {reason[:300]} Start one with ray start "
            "--head, or give its address as --set address=HOST:PORT."
        ) from None
    return ray


def _on_gpu(device: str, resources: dict[str, float]) -> bool:
    return device == "cuda" or (device == "auto" and resources.get("GPU", 0) >= 1)
