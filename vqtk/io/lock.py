"""Locks, so that one process at a time is at work on a run or a study."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqtk.errors import VqtkError

RUN = "run.lock"
"""The lock of a run, in its directory."""
_POLL_S = 0.2


@contextmanager
def locked(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which names this process; the system frees it when its holder ends, however it ends.

    Processes that the holder forks do not hold it.
    Raises: VqtkError, with the holder, if another process holds it for longer than `wait_s`, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=wait_s, poll_interval=_POLL_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise VqtkError(
            f"{what} is being run by another process ({_holder(path)}). Wait for it to end, or stop it. Its lock is "
            f"{path}."
        ) from None
    except OSError as error:
        raise VqtkError(
            f"{path.parent}: nothing can be written to this folder ({error.strerror or error}). Make it writable, or "
            "choose another with --out."
        ) from None
    try:
        with suppress(OSError):  # It is there for people to read; a full disk has no room for it.
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except (OSError, ValueError):  # On Windows it cannot be read while it is held.
        return "unknown"
