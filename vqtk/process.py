"""The process: its settings before torch is loaded, what a manifest records of it, seeded generators, signals.

Threads wait only briefly and freed memory is kept: both suit a shared machine. The user's own settings take precedence.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

VERSION = "0.1.0"

SPINS = "10000"
"""How many times an OpenMP thread checks for work before it sleeps.

By default it spins for milliseconds, and an update of MNIST beside one busy process takes twenty times as long. With
this value an idle machine is as fast as before, and a busy one as fast as with threads that sleep at once.
"""
_KEPT_BYTES = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle() -> None:
    """Limit the spinning of threads and keep freed memory, unless torch is loaded or the user has set either."""
    if "torch" in sys.modules:
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if sys.platform == "linux" and not any(name in os.environ for name in own):
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Make glibc's allocator reuse large blocks.

    By default it returns each to the system and requests it again, with pages to clear: a fifth of encoding's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # Another C library.
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions, hardware and thread count that a run depends on."""
    import torch

    return {
        "vqtk": VERSION,
        "git": _git(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "command": ["vqtk", *sys.argv[1:]],
    }


def _git() -> str | None:
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a CPU generator for one place of a run, such as ("epoch", 3).

    Its seed depends only on the run's seed and the place, not on what was drawn before: a resumed run draws the same
    numbers without a stored generator state, and drawing more at one place changes nothing at another.
    """
    import torch

    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


PATIENCE_S = 10
"""Seconds to wait for a server."""


@contextmanager
def impatient() -> Iterator[None]:
    """Wait at most `PATIENCE_S` for each answer of a server within the context."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class Stoppable(Protocol):
    """A task that ends once `stop` is set."""

    stop: bool


STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
]
"""Signals that stop a run with a checkpoint: Ctrl-C, and what schedulers and closing terminals send."""


ECHO_S = 5.0
"""Seconds within which a launcher repeats to its processes a signal that the terminal sent to all of them."""


@contextmanager
def stopping_on_signals(target: Stoppable, *, echo_s: float = 0.0) -> Iterator[list[int]]:
    """Set `stop` at the first signal and interrupt at the second; yield the signal numbers received.

    Signals within `echo_s` seconds of the first are a part of it.
    """
    received: list[int] = []
    first = 0.0
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may handle signals.
        yield received
        return

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if received and time.monotonic() - first >= echo_s:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        received.append(number)
        target.stop = True

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
