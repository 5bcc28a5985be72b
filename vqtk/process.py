"""What this process asks of the C library, before torch is loaded: threads that wait politely, memory that is kept.

Both are chosen for a machine that others use too; a user's own settings stand.
"""

from __future__ import annotations

import ctypes
import os
import sys

SPINS = "10000"
"""How often an OpenMP thread looks for work before it sleeps.

By default it looks for milliseconds: beside one busy process an update of MNIST then takes twenty times as long. With
this many it is as fast as ever on a quiet machine, and beside a busy one as fast as threads that sleep at once.
"""
_KEPT_BYTES = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle() -> None:
    """Set both, unless torch is loaded or the user has set them."""
    if "torch" in sys.modules:
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if sys.platform == "linux" and not any(name in os.environ for name in own):
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc's allocator reuse large blocks.

    It gives each back to the system and asks for it again, with pages to clear: a fifth of the time of encoding.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # Another C library.
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
