"""Which device a run is on."""

from __future__ import annotations

import torch

from vqtk.errors import VqtkError


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu, cuda or mps; auto takes the fastest at hand. Raises: VqtkError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if name not in present:
        raise VqtkError(f"--device {name!r}: expected auto, cpu, cuda or mps.")
    if not present[name]:
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise VqtkError(f"--device {name}: torch finds no such device here. Present: {there}.")
    if name == "cuda":
        torch.backends.cudnn.deterministic = True
    return torch.device(name)
