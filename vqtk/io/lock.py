"""Locks, so that one process at a time is at work on a run or a study."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqtk.errors import VqtkError

RUN = "run.lock"
"""The lock of a run, in its directory."""
_POLL_S = 0.2


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
        import fcntl
    except ImportError:  # Not a Unix: there runs are not locked.
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
