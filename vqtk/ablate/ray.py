"""Cells on a Ray cluster, whose machines see the study's directory at the same path."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqtk.ablate.executor import Event, Settings
from vqtk.ablate.worker import train_cell
from vqtk.errors import VqtkError

RETRIES = 3
"""How often Ray begins a cell again whose process or machine was lost; it goes on from its checkpoint."""
POLL_S = 0.5


class Ray:
    """An executor on a Ray cluster at `address`, or on one of its own here. Raises: VqtkError if there is none."""

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

    def submit(self, cell: Path) -> None:
        """Have a cell run when the cluster has room."""
        self._waiting.append(cell)

    def events(self) -> Iterator[Event | None]:
        """Yield cells that are handed to Ray and that end, and None every moment."""
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self.workers:
                cell = self._waiting.pop(0)
                self._running[self._task.remote(str(cell.resolve()), self.settings)] = cell
                yield Event(cell, "begun", "ray")
            ended, _ = self.ray.wait(list(self._running), timeout=POLL_S)
            for task in ended:
                yield Event(self._running.pop(task), "ended", "ray", self._error(task))
            yield None

    def stop(self) -> None:
        """Begin no other cell."""
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


def _train(cell: str, settings: Settings) -> str:
    return train_cell(Path(cell), settings, worker=f"ray {socket.gethostname()}").state


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
