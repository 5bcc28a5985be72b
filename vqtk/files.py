"""Files that are replaced atomically, and locks on folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vqtk.errors import LockedError, VqtkError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_TEMPORARY = re.compile(r"\.vqtk-([0-9a-f]{8})-(\d{1,9})-.*")
_STARTED = time.time()
_LONGEST_WRITE_S = 3600.0
"""No temporary file is written for longer; an older one was left behind, whatever the process in its name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, and rename it to `path` only if nothing was raised.

    Raises: OSError that names `path`, whichever file the system's own error names.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(), suffix=f".tmp{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file, in UTF-8. Raises: OSError."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file. Raises: OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent`, which the caller fills and then renames. Raises: OSError."""
    temporary = temporary_folder(parent)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_folder(parent: Path) -> Path:
    """Return a new folder in `parent`, which `sweep` removes once this process has ended. Raises: OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=_prefix(), suffix=".tmp"))
    temporary.chmod(0o777 & ~_umask())
    return temporary


def sweep(folder: Path, *, deep: bool = True) -> None:
    """Remove the temporary files that ended processes left in a folder, and with `deep` in all folders below it.

    Those of living processes stay, and so do those that cannot be removed.
    """
    for path in list(folder.rglob(".vqtk-*") if deep else folder.glob(".vqtk-*")):
        try:
            if _is_left_behind(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # It is gone already or belongs to another user; either way it does no harm.
            continue


def set_apart(folder: Path) -> Path:
    """Rename a folder to a temporary name beside it, which `sweep` removes if this process does not; return that name.

    Raises: OSError.
    """
    return folder.rename(folder.parent / f"{_prefix()}{folder.name}.tmp")


def _is_left_behind(path: Path) -> bool:
    named = _TEMPORARY.fullmatch(path.name)
    if not named or ".tmp" not in path.suffixes:
        return False
    host, pid, touched = named[1], int(named[2]), path.stat().st_mtime
    if time.time() - touched > _LONGEST_WRITE_S:
        return True
    if host != _HOST:
        return False
    # In containers all processes may have the same number: a file older than this process is of another one.
    return touched < _STARTED if pid == os.getpid() else not _lives(pid)


def _lives(pid: int) -> bool:
    if os.name != "posix":  # Elsewhere signal 0 does not merely ask: it can end the process.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It belongs to another user, so it exists.
        return True
    return True


def _prefix() -> str:
    return f".vqtk-{_HOST}-{os.getpid()}-"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. Raises: OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


RUN = "run.lock"
"""The lock of a run, in its directory."""
BEAT_S, DEAD_S = 15.0, 90.0
"""How often the holder of a lock touches its file, and after which silence a holder on another machine is dead."""
_POLL_S = 0.2
_SETTLED_S = 1.0
_LONGEST_RECORD = 4096


@contextmanager
def locked(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file that names this process; the system releases it when the process ends, however it ends.

    Processes that the holder forks do not hold it. On one machine the system's lock decides alone. A file system that
    machines share may forget the lock of another machine, or keep that of a dead one, so there the file's time decides
    as well: its holder touches it every `BEAT_S`, and is dead after `DEAD_S` without. A process whose lock was taken
    over, for example after a network failure, ends at once.

    Raises: LockedError, with the holder, if another process holds the lock for longer than `wait_s`; VqtkError if the
    file cannot be created.
    """
    from filelock import FileLock

    lock = FileLock(path)
    record = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "beats": f"{time.time():.6f}"}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = _take(lock, path, record, what, time.monotonic() + wait_s)
    except OSError as error:
        raise VqtkError(
            f"{path.parent}: cannot write to this folder ({error.strerror or error}). Make it writable, or choose "
            "another with --out."
        ) from None
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, record, ended), daemon=True)
    try:
        if written:
            beating.start()
        yield
    finally:
        ended.set()
        if written:
            beating.join()
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == record:
                os.truncate(path, 0)  # Nobody need wait for this holder's silence.
        lock.release()


def _take(lock: BaseFileLock, path: Path, record: str, what: str, until: float) -> bool:
    """Acquire a lock and return whether the record could be written into its file.

    Raises: LockedError if it is held after `until`, OSError.
    """
    from filelock import Timeout

    took_over = False
    while True:
        try:
            lock.acquire(timeout=0)
            silence = _silence(path)
            took_over = took_over or silence is not None
            if silence is None or silence >= DEAD_S:
                written = _write(path, record)
                if not (took_over and written and _is_lost(path, record)):
                    return written
            lock.release()  # The file system does not share locks, or the holder's machine was lost just now.
        except Timeout:
            if (_silence(path) or 0) >= DEAD_S:
                path.unlink(missing_ok=True)  # The dead holder's lock stays with the removed file.
                took_over = True
                continue
        if time.monotonic() >= until:
            raise LockedError(
                f"{what} is being run by another process ({_holder(path)}). Wait for that to end, or stop it. The lock "
                f"file is {path}. If its machine was lost, the lock is free after {DEAD_S:.0f} s."
            )
        time.sleep(_POLL_S)


def _write(path: Path, record: str) -> bool:
    try:
        path.write_text(record, encoding="utf-8")
    except OSError:  # If the disk is full, the system's lock holds without the record.
        return False
    return True


def _is_lost(path: Path, record: str) -> bool:
    """Return whether another machine, which found the same holder dead, has written its record in the same moment."""
    time.sleep(_SETTLED_S)
    try:
        return path.read_text(encoding="utf-8") != record
    except (OSError, ValueError):
        return True


def _beat(path: Path, record: str, ended: threading.Event) -> None:
    """Touch a lock's file until `ended`; end the process if another one has taken the lock over."""
    while not ended.wait(BEAT_S):
        try:
            found = path.read_text(encoding="utf-8")
            if found == record:
                os.utime(path)
        except (OSError, ValueError):  # The file server does not answer, or the run was removed.
            continue
        if found != record:
            holder = found.strip() or "unknown"
            print(f"{path}: another process took this lock over ({holder}); this one ends.", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)  # Whatever this process still wrote would mix with the other's.


def _silence(path: Path, *, asking: bool = True) -> float | None:
    """Return the seconds since the holder on another machine touched a lock's file; None if there is no such holder.

    With `asking` the present is the file server's: that of a new file beside it. Clocks of machines differ.
    """
    try:
        with path.open(encoding="utf-8") as file:  # Opening it makes a network file system ask the server.
            record, touched = json.loads(file.read(_LONGEST_RECORD)), os.fstat(file.fileno()).st_mtime
        if not record.get("beats") or record.get("host") == socket.gethostname():
            return None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    now = time.time()
    if asking:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_prefix(), suffix=".tmp") as file:
            now = os.fstat(file.fileno()).st_mtime
    return now - touched


def is_locked(path: Path) -> bool:
    """Return whether a living process holds a lock file; this needs no permission to write to it."""
    silence = _silence(path, asking=False)
    if silence is not None:
        return silence < DEAD_S
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):  # Another system, or no lock.
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except (OSError, ValueError):  # Windows does not allow reading a locked file.
        return "unknown"
