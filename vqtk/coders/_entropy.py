"""Entropy coding with constriction's range coder, by frequencies that are whole numbers.

Encoder and decoder compute the same frequencies from the codes of the stages before. A frequency divided by the total,
a power of two, is exact in float32, so what constriction computes from it is the same on every machine as well.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.coders._base import Coder
from vqtk.errors import CheckpointError, VqtkError
from vqtk.models import Model

FEW = 4096
"""Options up to which frequencies sum to 2^16 and take two bytes; beyond, they sum to 2^22 and take four."""
MOST_ENTRIES = 1 << 24
"""Entries of a prior's tables at most."""

Walk = Generator[Tensor, Tensor, None]
"""Yields the frequencies of each stage, (n, k), or (1, k) if they are the same for all; takes its codes (n,)."""


class Entropy(Coder):
    """A range coder, which spends the negative log probability of each code under a prior.

    A subclass yields the frequencies, whole numbers of at least 1 that sum to `total`.

    Raises: VqtkError if constriction is not installed.
    """

    def __init__(self, model: Model, tables: bytes):
        super().__init__(model, tables)
        self.total = total_of(model.options)
        self._coding = _constriction()

    @abstractmethod
    def walk(self, n: int) -> Walk:
        """Walk through the stages of n examples."""

    def encode(self, codes: Tensor) -> list[bytes]:
        """Return the bytes of each stage: the 32-bit words of a range coder."""
        parts = []
        for code, frequencies in self._along(codes.cpu()):
            coder = self._coding.stream.queue.RangeEncoder()
            coder.encode(code.numpy().astype(np.int32), *self._model(frequencies))
            parts.append(coder.get_compressed().astype("<u4").tobytes())
        return parts

    def decode(self, parts: Sequence[bytes], n: int) -> Tensor:
        """Return the codes."""
        columns, walk = list[Tensor](), self.walk(n)
        frequencies = next(walk)
        for part in parts:
            if len(part) % 4:
                raise CheckpointError(f"{len(part):,} bytes are not whole words of a range coder")
            coder = self._coding.stream.queue.RangeDecoder(np.frombuffer(part, "<u4").astype(np.uint32))
            model, *rows = self._model(frequencies)
            try:
                code = coder.decode(model, *(rows or [n]))
            except (AssertionError, ValueError) as error:  # What constriction raises for bytes that no codes have.
                raise CheckpointError(f"its bytes are not codes of this prior ({error})") from None
            columns.append(torch.from_numpy(code.astype(np.int64)))
            if len(columns) < len(parts):
                frequencies = walk.send(columns[-1])
        return self.checked(columns, n)

    def nats(self, codes: Tensor) -> float:
        """Return the sum of the codes' negative log probabilities."""
        chosen = [rows.expand(len(code), -1).gather(1, code[:, None]) for code, rows in self._along(codes.cpu())]
        return -float((torch.cat(chosen).double() / self.total).log().sum())

    def _along(self, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the codes (n,) of each stage, and its frequencies."""
        walk = self.walk(len(codes))
        frequencies = next(walk)
        for stage, code in enumerate(codes.unbind(1)):
            yield code, frequencies
            if stage + 1 < codes.shape[1]:
                frequencies = walk.send(code)

    def _model(self, frequencies: Tensor) -> tuple[Any, ...]:
        """Return constriction's arguments: the model of a stage, or the family of models and a row for each code."""
        values = frequencies.numpy().astype(np.float32) / np.float32(self.total)
        categorical = self._coding.stream.model.Categorical
        return (categorical(values[0], perfect=False),) if len(values) == 1 else (categorical(perfect=False), values)


class Tabled(Entropy):
    """By tables, which a file holds: of the first stage (1, k), and of each later one (`contexts`, k)."""

    fitted = True

    def __init__(self, model: Model, tables: bytes):
        super().__init__(model, tables)
        self._rows = _read_tables(tables, self.shapes(model), self.total)

    @classmethod
    @abstractmethod
    def shapes(cls, model: Model) -> list[tuple[int, int]]:
        """Return the shape of each stage's table. Raises: VqtkError if they are too large."""

    def walk(self, n: int) -> Walk:
        """Walk; each row of a table with several belongs to a code of the stage before."""
        codes = torch.zeros(n, dtype=torch.int64)
        for table in self._rows:
            codes = yield table if len(table) == 1 else table[codes]

    @classmethod
    def packed(cls, model: Model, tables: Sequence[Tensor]) -> bytes:
        """Return tables of probabilities as compressed frequencies, less 1, since each is at least that."""
        total = total_of(model.options)
        joined = torch.cat([(quantised(table, total) - 1).flatten() for table in tables])
        return zlib.compress(joined.numpy().astype(_stored_as(total)).tobytes(), 9)


def quantised(probabilities: Tensor, total: int) -> Tensor:
    """Return probabilities (r, k) as whole numbers of at least 1, each row with the sum `total`: (r, k), int64."""
    whole = 1 + (probabilities.double() * (total - probabilities.shape[1])).floor().long()
    left = total - whole.sum(1, keepdim=True)  # What rounding down left.
    return whole.scatter_add_(1, probabilities.argmax(1, keepdim=True), left)


def total_of(options: int) -> int:
    """Return what frequencies of that many options sum to."""
    return 1 << 16 if options <= FEW else 1 << 22


def too_large(name: str, model: Model) -> VqtkError:
    """Return the error for a prior that would take too much memory."""
    return VqtkError(
        f"the prior {name} of {model.stages} stages of {model.options:,} options is too large. Use uniform or packed."
    )


def _stored_as(total: int) -> str:
    return "<u2" if total == 1 << 16 else "<u4"


def _read_tables(stored: bytes, shapes: list[tuple[int, int]], total: int) -> list[Tensor]:
    kind, sizes = _stored_as(total), [rows * columns for rows, columns in shapes]
    expected = sum(sizes) * np.dtype(kind).itemsize
    try:
        found = zlib.decompressobj().decompress(stored, expected + 1)  # One more shows that there are too many.
    except zlib.error as error:
        raise CheckpointError(f"the tables of the prior are damaged ({error})") from None
    if len(found) == expected:
        flat = torch.from_numpy(np.frombuffer(found, kind).astype(np.int64)) + 1
        tables = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        if all(bool((table.sum(1) == total).all()) for table in tables):
            return tables
    raise CheckpointError("the tables of the prior are damaged: their rows do not have the right sum")


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise VqtkError(
            "entropy coding needs constriction, which is not installed. Run: pip install 'vqtk[codec]', or use the "
            "prior packed."
        ) from None
    return constriction
