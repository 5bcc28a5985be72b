"""Where a cell stands, in its `cell.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vqtk.errors import CheckpointError
from vqtk.io.atomic import write_text
from vqtk.io.run_files import CellFile, read_file

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
