"""What a study and its workers say to each other: settings, events, each run's state on disk, a request to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from vqtk.errors import CheckpointError
from vqtk.files import write_text
from vqtk.io.run_files import CellFile, read_file

STOP = "stop"
"""The file in a study's directory that asks its workers to stop."""
STATES = ("waiting", "running", "done", "failed", "stopped")


@dataclass(frozen=True)
class State:
    """A cell's state, its error where it failed, how often it was begun, and by which worker last."""

    state: str = "waiting"
    error: str | None = None
    attempts: int = 0
    worker: str | None = None


def read_state(cell: Path) -> State:
    """Return the state of a cell's directory; waiting if there is none, or none that can be read."""
    try:
        return State(**read_file(cell / "cell.json", CellFile))
    except (CheckpointError, TypeError):
        return State()


def write_state(cell: Path, state: State) -> None:
    """Write a cell's state into its directory."""
    write_text(cell / "cell.json", json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n")


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
