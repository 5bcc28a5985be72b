"""What a study, its executors and its workers exchange: settings go in, and states and events come out.

The state of a run lives in its directory alone, so that any process that sees the study's folder can go on with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from vqtk.errors import CheckpointError
from vqtk.files import write_text
from vqtk.io.run_files import CellFile, read_file

STOP = "stop"
"""The file in a study's directory that asks its workers to stop."""
LOCKED = 75
"""The exit code of a worker whose run another process is training."""
STATES = ("waiting", "running", "done", "failed", "stopped", "pruned")
SETTLED = ("done", "failed", "pruned")
"""The states in which a run stays until it is retried."""


@dataclass(frozen=True)
class State:
    """A run's state, its error if it failed, how often it was started, and by which worker on which machine last."""

    state: str = "waiting"
    error: str | None = None
    attempts: int = 0
    worker: str | None = None
    host: str | None = None


def read_state(run: Path) -> State:
    """Return the state of a run by its directory; waiting if none can be read."""
    try:
        return State(**read_file(run / "cell.json", CellFile))
    except (CheckpointError, TypeError):
        return State()


def write_state(run: Path, state: State) -> None:
    """Write a run's state into its directory."""
    write_text(run / "cell.json", json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Event:
    """A run was `begun` by a worker, or its worker has `ended`; `error` if it ended without recording a state."""

    run: Path
    what: str
    worker: str
    error: str | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of each worker: the device, the data's folder, its CPU threads, and the process it depends on."""

    device: str = "auto"
    data_dir: Path | None = None
    threads: int | None = None
    parent: int | None = None


class Executor(Protocol):
    """Trains runs by their directories, several at once, as `train_run` does."""

    workers: int
    settings: Settings

    def submit(self, run: Path) -> None:
        """Start a run when there is room."""

    def events(self) -> Iterator[Event | None]:
        """Yield events until no run is left, and None now and then in between."""

    def stop(self) -> None:
        """Start no other run. The study's stop file asks the current ones to end."""

    def kill(self) -> None:
        """End the current runs at once."""


def record_failure(event: Event) -> None:
    """Record the failure of a worker that ended without recording it."""
    state = read_state(event.run)
    if event.what == "ended" and event.error and state.state in ("waiting", "running"):
        write_state(event.run, replace(state, state="failed", error=event.error))
