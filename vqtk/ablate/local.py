"""Cells in processes of this machine, one GPU each where there are GPUs, else a share of the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vqtk.ablate.executor import Event, Settings

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

    def submit(self, cell: Path) -> None:
        """Have a cell run when a process is free."""
        self._waiting.append(cell)

    def events(self) -> Iterator[Event | None]:
        """Yield cells that begin and end, and None every moment."""
        while self._waiting or self._running:
            for slot in range(self.workers):
                if slot in self._running and (ended := self._ended(slot)):
                    yield ended
                if slot not in self._running and self._waiting:
                    yield self._begin(slot, self._waiting.pop(0))
            yield None
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Begin no other cell."""
        self._waiting.clear()

    def kill(self) -> None:
        """End the processes at once."""
        for _, process in self._running.values():
            process.kill()

    def _begin(self, slot: int, cell: Path) -> Event:
        worker = f"local {slot}"
        options = ["--device", self.settings.device, "--threads", str(self.threads), "--worker", worker]
        options += ["--parent", str(os.getpid())]
        if self.settings.data_dir:
            options += ["--data-dir", str(self.settings.data_dir)]
        with (cell / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vqtk.ablate.worker", str(cell), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(slot),
            )  # fmt: skip
        self._running[slot] = (cell, process)
        return Event(cell, "begun", worker)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONSAFEPATH": "1"}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _ended(self, slot: int) -> Event | None:
        cell, process = self._running[slot]
        code = process.poll()
        if code is None:
            return None
        del self._running[slot]
        return Event(cell, "ended", f"local {slot}", _told(code, cell / LOG))


def _told(code: int, log: Path) -> str | None:
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = "; the system does that when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}. See {log}. With --retry it goes on from its checkpoint."
    return f"its process ended with code {code}. See {log}."


def gpus(device: str) -> list[str]:
    """Return the CUDA devices that may be used, as CUDA_VISIBLE_DEVICES names them; none where `device` is another."""
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
