"""Which device a run is on, and how much of its memory it took."""

from __future__ import annotations

import sys

import torch

from vqtk.errors import VqtkError


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu, cuda, cuda:N or mps; auto takes the fastest at hand. Raises: VqtkError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    kind, colon, index = name.partition(":")
    if kind not in present or (colon and not (kind == "cuda" and index.isdecimal() and len(index) < 4)):
        raise VqtkError(f"--device {name[:50]!r}: expected auto, cpu, cuda, cuda:N or mps.")
    if not present[kind] or (index and int(index) >= torch.cuda.device_count()):
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise VqtkError(f"--device {name}: torch finds no such device here. Present: {there}.")
    if kind == "cuda":
        # Convolutions in TF32 give one example in eight another code; training asks for it by `precision: tf32`.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that a clock tells the time of the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that this process has held so far, in 10⁶ bytes: on CUDA the device's, else the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Not a Unix: the host's peak is not known.
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
