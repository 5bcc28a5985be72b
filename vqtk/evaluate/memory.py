"""How much memory a piece of work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """Fill a list with the most bytes that tensors made within the block hold at a time, once it is left.

    On CUDA the allocator counts them; elsewhere what operations return is counted, and not what compiled code
    allocates for itself.
    """
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with _Counting() as counting:
        yield found
    found.append(counting.peak)


class _Counting(TorchDispatchMode):
    """Counts the bytes of the storages that operations return, from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.held = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage(), given)
        return output

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self.known or key in given:
            return
        self.known.add(key)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.held -= size
