"""What runs the cells of a study: a few processes here, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Event:
    """A cell was `begun` by a worker, or its worker has `ended`; `error` where it ended without a state of its own."""

    cell: Path
    what: str
    worker: str
    error: str | None = None


@dataclass(frozen=True)
class Settings:
    """What each worker is told: the device, where data lie, its CPU threads, and the process without which it ends."""

    device: str = "auto"
    data_dir: Path | None = None
    threads: int | None = None
    parent: int | None = None


class Executor(Protocol):
    """Runs `train_cell` on the directories of cells, several at once."""

    workers: int
    settings: Settings

    def submit(self, cell: Path) -> None:
        """Have a cell run when there is room."""

    def events(self) -> Iterator[Event | None]:
        """Yield what happens until no cell is left, and None now and then in between."""

    def stop(self) -> None:
        """Begin no other cell. Those that run are asked by the study's stop file."""

    def kill(self) -> None:
        """End those that run at once."""
