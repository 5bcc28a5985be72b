"""Files of codes: a header, then the codes of all examples stage after stage, in blocks of examples.

    magic | length of the facts | facts (JSON) | tables of the prior | index | SHA-256 of all this
    names of block 1, of block 2, … | stage 1 of block 1, of block 2, … | stage 2 of block 1, …

Since stages follow one another, a file that was cut holds the first stages of every example. The index has the length
and the CRC-32 of each part, which distinguishes a cut from damage. docs/codec.md has the format as a table.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from vqtk.coders import Coder, coder_of
from vqtk.errors import CheckpointError, VqtkError
from vqtk.evaluate.evaluation import suited_batch
from vqtk.files import replacing
from vqtk.io.run_files import CodesHeader, parse_json
from vqtk.io.weights import weights_sha256
from vqtk.models import Model

MAGIC = b"vqtkvqd1"
BLOCK_BITS = 1 << 15
"""Bits of a stage in a block, about: enough that a block's entry in the index and its last word cost 0.3 %."""
MOST_CODES = 1 << 24
"""The most codes of a block, which are held in memory."""
MOST_FACTS = 1 << 16
LONGEST_NAME = 4096
_ENTRY = np.dtype([("length", "<u4"), ("crc", "<u4")])
_DIGEST = 32


@dataclass(frozen=True)
class Shares:
    """The bytes of a file of codes, by what they are for; `stages` are those of each stage's codes."""

    header: int
    tables: int
    names: int
    stages: list[int]

    @property
    def payload(self) -> int:
        """The bytes of the codes."""
        return sum(self.stages)

    @property
    def total(self) -> int:
        """The bytes of the file."""
        return self.header + self.tables + self.names + self.payload


def block_of(model: Model) -> int:
    """Return the number of examples in a block of a model's codes."""
    return max(1, min(int(BLOCK_BITS / log2(model.options)), MOST_CODES // model.stages))


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


class CodeWriter:
    """Writes a file of codes, which appears, complete, when the `with` block ends; memory holds one block.

    Arguments:
        path: the file.
        model: whose codes they are.
        coder: how they become bytes.
        named: whether the examples have names.
        array: whether they came from one array.
        search: the search that found the codes, for the header.
    """

    def __init__(
        self, path: Path, model: Model, coder: Coder, *, named: bool, array: bool = False, search: str | None = None
    ):
        self.path, self.model, self.coder = path, model, coder
        self.block, self.count = block_of(model), 0
        self.shares = Shares(0, 0, 0, [])
        self._facts: dict[str, Any] = {"named": named, "array": array, "search": search}
        self._held: list[Tensor] = []
        self._names: list[str] = []
        self._index: list[np.ndarray] = []
        self._open = ExitStack()

    def __enter__(self) -> CodeWriter:
        self._temporary = self._open.enter_context(replacing(self.path))
        # Blocks arrive one after another, and the file has stage after stage: the parts wait in another file.
        self._waiting = self._open.enter_context(tempfile.TemporaryFile(dir=self._temporary.parent))
        return self

    def __exit__(self, *raised: Any) -> None:
        with self._open:  # It keeps no file if something is raised.
            if raised[1] is not None:
                raise raised[1]
            self._finish()

    def add(self, codes: Tensor, names: Sequence[str] = ()) -> None:
        """Add the codes (n, s) of examples, and their n names if they have any."""
        self._held.append(codes.cpu().to(torch.int32))
        self._names += names
        self.count += len(codes)
        while sum(map(len, self._held)) >= self.block:
            self._flush()

    def _flush(self) -> None:
        held = torch.cat(self._held)
        codes, self._held = held[: self.block].long(), [held[self.block :]]
        names, self._names = self._names[: self.block], self._names[self.block :]
        listed = [zlib.compress("\0".join(names).encode("utf-8", "surrogateescape"), 9)] if self._facts["named"] else []
        parts = [*listed, *self.coder.encode(codes)]
        self._index.append(np.array([(len(part), zlib.crc32(part)) for part in parts], _ENTRY))
        self._waiting.writelines(parts)

    def _finish(self) -> None:
        if sum(map(len, self._held)):
            self._flush()
        if not self.count:
            raise VqtkError(f"{self.path}: there are no examples to compress, so no file is written.")
        index = np.stack(self._index)  # (blocks, parts)
        lengths = index["length"].astype(np.int64)
        starts = (lengths.cumsum() - lengths.reshape(-1)).reshape(lengths.shape)
        header = self._header(index)
        with self._temporary.open("wb") as file:
            file.write(header)
            for start, length in zip(starts.T.reshape(-1).tolist(), lengths.T.reshape(-1).tolist(), strict=True):
                self._waiting.seek(start)
                file.write(self._waiting.read(length))
        self.shares = _shares(len(header), len(self.coder.tables), lengths.T, named=self._facts["named"])

    def _header(self, index: np.ndarray) -> bytes:
        tables, model = self.coder.tables, self.model
        facts = CodesHeader(
            model=weights_sha256(model), kind=model.data.kind, shape=list(model.data.shape), stages=model.stages,
            options=model.options, count=self.count, block=self.block, prior=self.coder.name, tables=len(tables),
            **self._facts,
        )  # fmt: skip
        written = json.dumps(facts.model_dump()).encode()
        header = b"".join([MAGIC, len(written).to_bytes(4, "little"), written, tables, index.T.tobytes()])
        return header + hashlib.sha256(header).digest()


@torch.no_grad()
def compress(
    model: Model,
    examples: Iterable[Tensor],
    path: Path,
    *,
    coder: Coder | None = None,
    names: Iterable[str] | None = None,
    array: bool = False,
    search: str | None = None,
) -> Shares:
    """Write the codes of examples to a file, and return its sizes; one batch of the examples is held at a time.

    Arguments:
        model: encodes them, by its own search.
        examples: raw examples (*data shape), as a data set holds them: uint8 for images.
        path: the file.
        coder: how codes become bytes, from `coder_of`; by default bit-packed.
        names: a name for each example.
        array: whether the examples came from one array, and are to be written back as one.
        search: the name of the search, for the header.

    Raises: VqtkError if there are no examples, they do not fit the model, or there are fewer names.
    """
    remaining, listed = iter(examples), None if names is None else iter(names)
    facts: dict[str, Any] = {"named": listed is not None, "array": array, "search": search}
    with CodeWriter(path, model, coder or coder_of("packed", model), **facts) as writer:
        while group := list(islice(remaining, suited_batch(model))):
            target = model.data.normalise(torch.stack(group).to(model.device), model.dtype)
            own = list(islice(listed or (), len(group)))
            if listed is not None and len(own) < len(group):
                raise VqtkError(f"{path}: there are fewer names than examples. Give one name for each.")
            writer.add(model.encode(target), own)
    return writer.shares


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


class CodeFile:
    """A file of codes, whose header was read and checked; `whole` is the number of stages that it holds completely.

    Raises: CheckpointError if it is not a file of codes, is damaged, or was cut within the first stage.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                self.facts, self.tables, index, start = self._read_header(file, size)
        except OSError as error:
            raise CheckpointError(
                f"{path}: the file cannot be read ({error.strerror}). Expected a file written by vqtk compress."
            ) from None
        self._named = int(self.facts.named)
        self._crc = index["crc"]
        self._length = index["length"].astype(np.int64)  # (parts, blocks)
        ends = start + self._length.cumsum().reshape(self._length.shape)
        self._start, end = ends - self._length, int(ends[-1, -1])
        if size > end:
            raise self._damaged(f"{size - end:,} bytes follow its end")
        self.whole = int((ends[:, -1] <= size).sum()) - self._named
        if self.whole < 1:
            raise CheckpointError(
                f"{path}: the file was cut: it has {size:,} of {end:,} bytes, and the first stage is not complete. "
                "Copy it again."
            )
        self.shares = _shares(start, len(self.tables), self._length, named=self.facts.named)

    def check(self, model: Model, stages: int | None = None) -> int:
        """Return how many stages to decode: `stages`, by default all that are whole.

        Raises: CheckpointError if another model wrote the file, it lacks stages, or the model cannot decode so few.
        """
        facts, own = self.facts, weights_sha256(model)
        if facts.model != own:
            raise CheckpointError(
                f"{self.path}: these codes are of another model: the SHA-256 of its weights begins with "
                f"{facts.model[:12]}, that of this one with {own[:12]}. Give the model that compressed them."
            )
        if (facts.stages, facts.options, facts.shape) != (model.stages, model.options, list(model.data.shape)):
            raise self._damaged(f"its header has {facts.stages} stages of {facts.options} options for this model")
        wanted = stages or self.whole
        if wanted > self.whole:
            cut = "" if self.whole == facts.stages else ", because it was cut"
            raise CheckpointError(
                f"{self.path}: {wanted} stages: the file holds {self.whole}{cut}. Give --stages {self.whole} or less."
            )
        if wanted < facts.stages:
            try:
                with torch.no_grad():
                    model.decode(torch.zeros(1, wanted, dtype=torch.int64, device=model.device))
            except VqtkError as error:
                raise CheckpointError(
                    f"{self.path}: {wanted} of {facts.stages} stages cannot be decoded: {error}"
                ) from None
        return wanted

    def verify(self, stages: int) -> None:
        """Read the first stages, and compare their checksums. Raises: CheckpointError that names a damaged part."""
        with self.path.open("rb") as file:
            for row in range(self._named + stages):
                for block in range(self._length.shape[1]):
                    self._part(file, row, block)

    def blocks(self, coder: Coder, stages: int) -> Iterator[tuple[list[str], Tensor]]:
        """Yield the names, if there are any, and the codes (m, stages) of each block."""
        with self.path.open("rb") as file:
            for block in range(self._length.shape[1]):
                n = min(self.facts.block, self.facts.count - block * self.facts.block)
                names = self._read_names(self._part(file, 0, block), n) if self._named else []
                parts = [self._part(file, self._named + stage, block) for stage in range(stages)]
                try:
                    codes = coder.decode(parts, n)
                except CheckpointError as error:
                    raise self._damaged(f"block {block + 1}: {error}") from None
                yield names, codes

    def _part(self, file: Any, row: int, block: int) -> bytes:
        file.seek(int(self._start[row, block]))
        part: bytes = file.read(int(self._length[row, block]))
        if zlib.crc32(part) == self._crc[row, block]:
            return part
        stage = row - self._named + 1
        what = f"stage {stage}" if stage > 0 else "the names"
        advice = f" The stages before it are intact: --stages {stage - 1}." if stage > 1 else ""
        raise self._damaged(f"{what} of block {block + 1} does not match its checksum", advice)

    def _read_names(self, part: bytes, n: int) -> list[str]:
        try:
            text = zlib.decompressobj().decompress(part, n * (LONGEST_NAME + 1))
        except zlib.error as error:
            raise self._damaged(f"its names cannot be read ({error})") from None
        names = text.decode("utf-8", "surrogateescape").split("\0")
        if len(names) != n:
            raise self._damaged(f"it has {len(names):,} names of {n:,} examples")
        return names

    def _read_header(self, file: Any, size: int) -> tuple[CodesHeader, bytes, np.ndarray, int]:
        """Return the facts, the tables, the index (parts, blocks), and where the parts start."""
        started = file.read(len(MAGIC) + 4)
        if started[: len(MAGIC)] != MAGIC:
            raise CheckpointError(f"{self.path}: not a file of codes. Expected one written by vqtk compress.")
        length = int.from_bytes(started[len(MAGIC) :], "little")
        written = file.read(min(length, MOST_FACTS))
        if len(written) < length:
            raise self._damaged("its header is not complete")
        try:
            facts = CodesHeader.model_validate(parse_json(written))
        except (ValueError, ValidationError):
            raise self._damaged("its header cannot be read") from None
        if facts.block > 1 and facts.block * facts.stages > MOST_CODES:
            raise self._damaged(f"its blocks of {facts.block:,} examples are too large")
        blocks = -(-facts.count // facts.block)
        following = facts.tables + (facts.stages + facts.named) * blocks * _ENTRY.itemsize
        if following > size:  # Before so much is read.
            raise self._damaged("its header is not complete")
        rest, digest = file.read(following), file.read(_DIGEST)
        if hashlib.sha256(started + written + rest).digest() != digest:
            raise self._damaged("its header does not match its checksum, or is not complete")
        index = np.frombuffer(rest[facts.tables :], _ENTRY).reshape(-1, blocks)
        return facts, rest[: facts.tables], index, file.tell()

    def _damaged(self, reason: str, advice: str = " Copy it again.") -> CheckpointError:
        return CheckpointError(f"{self.path}: the file is damaged: {reason}.{advice}")


def decompress(model: Model, path: Path, *, stages: int | None = None) -> Iterator[tuple[list[str], Tensor]]:
    """Check a file of codes, and return an iterator of names and decoded examples, one batch at a time.

    The examples (m, *data shape) are in training units, after the first `stages` stages, by default after all that the
    file holds. There are no names if none were stored.

    Raises: CheckpointError if the file is damaged, or another model wrote it.
    """
    file = CodeFile(path)
    wanted = file.check(model, stages)
    file.verify(wanted)
    return _decoded(model, file.blocks(coder_of(file.facts.prior, model, tables=file.tables), wanted))


def _decoded(model: Model, blocks: Iterator[tuple[list[str], Tensor]]) -> Iterator[tuple[list[str], Tensor]]:
    size = suited_batch(model)
    for names, codes in blocks:
        for start in range(0, len(codes), size):
            with torch.no_grad():
                shown = model.loss.show(model.decode(codes[start : start + size].to(model.device)))
            yield names[start : start + size], shown


def _shares(header: int, tables: int, lengths: np.ndarray, *, named: bool) -> Shares:
    """Return the sizes: `header` counts the bytes before the parts, of lengths (parts, blocks)."""
    sums = lengths.sum(1).tolist()
    return Shares(header - tables, tables, sum(sums[: int(named)]), sums[int(named) :])
