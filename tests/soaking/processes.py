"""Processes that run vqtk and are killed: forks of this one, which has imported all of it, or ones of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtk.files import write_text

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree"}
LIMIT_S = 300.0
"""A process that takes longer hangs."""


@dataclass
class Moment:
    """When a process is killed: after `seconds`, or before the n-th of its `writes` or `pieces` of updates."""

    seconds: float | None = None
    writes: int | None = None
    pieces: int | None = None


def start(arguments: Sequence[str], log: Path, moment: Moment | None = None, *, forked: bool = True) -> int:
    """Start `vqtk` with these arguments, in a process group of its own; return its process id."""
    if not forked:
        with log.open("ab") as out:
            command = [sys.executable, "-m", "vqtk", *arguments]
            return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True).pid
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = _command(arguments, moment or Moment())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(arguments: Sequence[str], moment: Moment) -> int:
    import vqtk.datasets._images
    import vqtk.runs.train
    import vqtk.study.executors
    from vqtk.cli import main

    vqtk.datasets._images.HELD_AT_MOST = 0  # Images are read by workers.
    vqtk.runs.train.write_report = _write_page  # type: ignore[assignment]
    vqtk.study.executors.subprocess = Forking  # type: ignore[assignment]
    _arm(moment)
    sys.argv = ["vqtk", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def _write_page(run: Path) -> None:
    """Write a report as the real one is written, without the seconds that drawing it takes."""
    write_text(run / "report.html", "<p>a report</p>")


def _arm(moment: Moment) -> None:
    """Have this process kill itself at a moment that is not one of time."""
    if moment.writes is not None:
        _count_writes(moment.writes)
    if moment.pieces is not None:
        _count_pieces(moment.pieces)


def _count_writes(left: int) -> None:
    here = os.getpid()

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in WRITES or os.getpid() != here:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left < 0:
            os.kill(here, signal.SIGKILL)

    sys.addaudithook(seen)


def _count_pieces(left: int) -> None:
    from vqtk.training.loop import Trainer

    backward = Trainer.backward

    def counted(self: Trainer, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(self, *arguments)

    Trainer.backward = counted  # type: ignore[method-assign]


class Forking:
    """Stands for `subprocess` in the executor of a study: its workers are forks, too."""

    DEVNULL = subprocess.DEVNULL

    class Popen:
        """A worker."""

        def __init__(self, command: Sequence[str], *, stdout: Any, **_: Any):
            self.code: int | None = None
            self.pid = os.fork()
            if not self.pid:
                self._become(command[3:], stdout)

        def _become(self, arguments: Sequence[str], out: Any) -> None:
            from vqtk.study import worker

            code = 70
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                sys.argv = ["worker", *arguments]
                worker.run_worker()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                os._exit(code)

        def poll(self) -> int | None:
            """Return the exit code, if there is one yet."""
            if self.code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.code = os.waitstatus_to_exitcode(status) if pid else None
            return self.code

        def kill(self) -> None:
            """End it."""
            os.kill(self.pid, signal.SIGKILL)


def end_of(pid: int, *, within: float | None = None) -> int | None:
    """Return the exit code of a process, None if it goes on for longer than that many seconds."""
    until = time.monotonic() + (LIMIT_S if within is None else within)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def kill(pid: int, how: str) -> None:
    """Kill a process, its whole group, or a study's first worker alone."""
    if how == "worker":
        children = Path(f"/proc/{pid}/task/{pid}/children")
        workers = children.read_text().split() if children.exists() else []
        if workers:
            with suppress(ProcessLookupError):
                os.kill(int(workers[0]), signal.SIGKILL)
            return
    (os.killpg if how == "group" else os.kill)(pid, signal.SIGKILL)
