"""All randomness of a run, derived from its one seed: what is drawn depends on the place, not on the history."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a CPU generator for one place of a run, such as ("epoch", 3)."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
