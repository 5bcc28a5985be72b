"""Files that are replaced atomically, and locks on folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqtk.errors import VqtkError

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
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=_prefix(), suffix=".tmp"))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


RUN = "run.lock"
"""The lock of a run, in its directory."""
_POLL_S = 0.2


@contextmanager
def locked(path: Path, *, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file that names this process; the system releases it when the process ends, however it ends.

    Processes that the holder forks do not hold it.

    Raises: VqtkError, with the holder, if another process holds the lock for longer than `wait_s`, or if the file
    cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=wait_s, poll_interval=_POLL_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise VqtkError(
            f"{what} is being run by another process ({_holder(path)}). Wait for that to end, or stop it. The lock "
            f"file is {path}."
        ) from None
    except OSError as error:
        raise VqtkError(
            f"{path.parent}: cannot write to this folder ({error.strerror or error}). Make it writable, or choose "
            "another with --out."
        ) from None
    try:
        with suppress(OSError):  # The text is for people to read: if the disk is full, the lock holds without it.
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock file; this needs no permission to write to it."""
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
