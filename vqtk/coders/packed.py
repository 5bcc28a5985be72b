"""Codes as bits, without a prior."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import torch
from torch import Tensor

from vqtk.coders._base import Coder
from vqtk.errors import CheckpointError
from vqtk.models import Model
from vqtk.registry import coders


@coders.register("packed")
class Packed(Coder):
    """Each code in the least whole number of bits, its highest bit first; needs no extra.

    Shapes: codes (n, s) in [0, options) ↔ s times ⌈n · ⌈log2 options⌉ / 8⌉ bytes.
    """

    def __init__(self, model: Model, tables: bytes):
        super().__init__(model, tables)
        self._places = np.arange((model.options - 1).bit_length() - 1, -1, -1)

    def encode(self, codes: Tensor) -> list[bytes]:
        """Return the bytes of each stage, the last byte filled up with zeros."""
        columns = codes.cpu().numpy().T
        return [np.packbits((column[:, None] >> self._places & 1).astype(np.uint8)).tobytes() for column in columns]

    def decode(self, parts: Sequence[bytes], n: int) -> Tensor:
        """Return the codes."""
        columns, count = [], n * len(self._places)
        for part in parts:
            if len(part) != -(-count // 8):
                raise CheckpointError(f"{len(part):,} bytes are not {n:,} codes of {len(self._places)} bits")
            bits = np.unpackbits(np.frombuffer(part, np.uint8), count=count).reshape(n, -1)
            columns.append(torch.from_numpy(bits @ (1 << self._places)))
        return self.checked(columns, n)

    def nats(self, codes: Tensor) -> float:
        """Return the bits of the codes, in nats."""
        return codes.numel() * len(self._places) * log(2)
