"""What trains the runs of a study: processes on this machine, or Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqtk.errors import VqtkError
from vqtk.study.worker import Event, Settings, train_run

POLL_S = 0.2
LOG = "worker.log"


class Local:
    """An executor of `workers` processes: by default one for each GPU, or one for every two cores."""

    def __init__(self, settings: Settings, *, workers: int | None = None):
        self.gpus = gpus(settings.device)
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

    def kill(self) -> None:
        """End the processes at once."""
        for _, process in self._running.values():
            process.kill()

    def _begin(self, slot: int, run: Path) -> Event:
        worker = f"local {slot}"
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
        return Event(run, "ended", f"local {slot}", _failure(code, run / LOG))


def _failure(code: int, log: Path) -> str | None:
    if code == 0:
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


RETRIES = 3
"""How often Ray restarts a run whose process or machine was lost; it resumes from its checkpoint."""
RAY_POLL_S = 0.5


class Ray:
    """An executor on the Ray cluster at `address`, or on one that it starts. Raises: VqtkError if there is none."""

    def __init__(self, settings: Settings, *, address: str | None = None, workers: int | None = None):
        self.ray = _connected(address, settings.threads or 1, workers)
        resources = self.ray.cluster_resources()
        cpus, gpus = settings.threads or 1, 1 if _on_gpu(settings.device, resources) else 0
        self.workers = workers or max(1, int(resources["GPU"] if gpus else resources.get("CPU", 1) // cpus))
        data_dir = settings.data_dir and settings.data_dir.resolve()
        self.settings = replace(settings, data_dir=data_dir, threads=cpus)
        task = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)
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
    return train_run(Path(run), settings, worker=f"ray {socket.gethostname()}").state


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
        raise VqtkError(f"--executor ray: no cluster at {address}: {reason}") from None
    return ray


def _on_gpu(device: str, resources: dict[str, float]) -> bool:
    return device == "cuda" or (device == "auto" and resources.get("GPU", 0) >= 1)
