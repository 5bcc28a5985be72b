"""Where a cell stands, in its `cell.json`; and locks, so that one process at a time is at work on it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vqtk.errors import VqtkError
from vqtk.io.atomic import write_text

STATES = ("waiting", "running", "done", "failed", "stopped")
_POLL_S = 0.2


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
        return State(**json.loads((cell / "cell.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return State()


def write_state(cell: Path, state: State) -> None:
    """Write a cell's state into its directory."""
    write_text(cell / "cell.json", json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n")


@contextmanager
def locked(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which names this process; the system frees it when its holder ends, however it ends.

    Raises: VqtkError, with the holder, if another process holds it for longer than `wait_s`, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VqtkError(f"{path.parent}: this folder cannot be made ({error}). Choose another with --out.") from None
    until = time.monotonic() + wait_s
    with path.open("a+", encoding="utf-8") as file:
        while not _taken(file.fileno()):
            if time.monotonic() >= until:
                file.seek(0)
                raise VqtkError(
                    f"{what} is being run by another process ({file.read().strip() or 'unknown'}). Wait for it to "
                    f"end, or stop it. Its lock is {path}."
                )
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        file.flush()
        yield


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
