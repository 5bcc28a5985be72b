"""How fast a model encodes and decodes, timed on the batches that are evaluated anyway."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from vqtk.train.device import synchronize

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """Items a second, medians over `batches` batches of `batch` items; `warmed_up` if a first one was left out."""

    encode_items_per_s: float
    decode_items_per_s: float
    batch: int
    batches: int
    warmed_up: bool
    threads: int
    device: str

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


class Stopwatch:
    """Times each call of one kind on a device, in items a second."""

    def __init__(self, device: torch.device):
        self.device = device
        self.items_per_s: list[float] = []

    def __call__(self, items: int, call: Callable[[], Result]) -> Result:
        """Return what the call returns, having noted the time that it took for so many items."""
        synchronize(self.device)
        started = time.perf_counter()
        result = call()
        synchronize(self.device)
        self.items_per_s.append(items / (time.perf_counter() - started))
        return result

    def median(self) -> float:
        """Return the median rate; the first call, which warms up, is left out unless it is the only one."""
        return statistics.median(self.items_per_s[1:] or self.items_per_s)


def rates(encode: Stopwatch, decode: Stopwatch, *, batch: int) -> Rates:
    """Return the rates that two stopwatches found on batches of `batch` items."""
    timed, device = len(encode.items_per_s), encode.device
    return Rates(
        encode_items_per_s=encode.median(),
        decode_items_per_s=decode.median(),
        batch=batch,
        batches=max(1, timed - 1),
        warmed_up=timed > 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
