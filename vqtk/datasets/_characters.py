"""Text as one token per character: the vocabulary, the tokens, and windows of them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._base import Dataset, Splits, megabytes
from vqtk.datasets._paths import check_regular, check_size, shown
from vqtk.datasets._split import HELD_AT_MOST, Windows
from vqtk.errors import DataError
from vqtk.nn.types import Count, DataSpec

UNKNOWN = "\ufffd"
"""The character of token 0, which stands for all characters outside the vocabulary."""
_MARKS = {
    "utf-32": codecs.BOM_UTF32_LE,
    "utf-32be": codecs.BOM_UTF32_BE,
    "utf-16": codecs.BOM_UTF16_LE,
    "utf-16be": codecs.BOM_UTF16_BE,
}
_POINTS = 0x110000
_AT_ONCE = 1 << 22


class Characters(Dataset):
    """Windows of `length` characters, as tokens of a vocabulary of `vocabulary` characters."""

    def __init__(self, *, length: Count, vocabulary: Count):
        self.length = length
        self.vocabulary = vocabulary

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("text", (self.length,), classes=self.vocabulary)

    @property
    def bytes_per_item(self) -> int:
        """The bytes of a character in memory; windows share their characters."""
        return _width(self.vocabulary).itemsize

    def check(self, root: Path) -> None:
        """Raise DataError if `validation` windows have more characters than the text."""
        characters = self.count(root) if self.validation else None
        if characters and self.validation * self.length >= characters:
            raise DataError(
                f"data.validation is {self.validation:,} windows of {self.length:,} characters, and the text has about "
                f"{characters:,} characters. Hold out fewer."
            )

    def plan(self, root: Path) -> str:
        """Return in words how the text is read, and the memory that it takes."""
        characters = self.count(root)
        each = f"{self.bytes_per_item} byte{'s' * (self.bytes_per_item > 1)} a character"
        if characters is None:
            return f"none found yet; in memory, {each}"
        return f"in memory, {each}, {characters:,} characters = {megabytes(characters * self.bytes_per_item)}"


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with all line ends converted to `\\n`.

    Raises: DataError that names the first byte that is not UTF-8, or the file's actual encoding.
    """
    try:
        check_regular(path)
        check_size(path, HELD_AT_MOST, advice="Give a part of the text.")
        content = path.read_bytes()
        _check_plain(path, content)
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start:,} is 0x{error.object[error.start]:02x}. "
            "Expected plain text in UTF-8. Convert it, for example: iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Expected plain text in UTF-8.") from None


def _check_plain(path: Path, content: bytes) -> None:
    """Raise DataError if a file starts like UTF-16 or UTF-32, or holds zeros, as those and binary files do."""
    # UTF-32 is tried first, because its mark begins with that of UTF-16.
    found = next((name for name, mark in _MARKS.items() if content.startswith(mark)), None)
    if found:
        raise DataError(
            f"{path} is {found.upper()} text. Expected plain text in UTF-8. Convert it: iconv -f {found} -t utf-8"
        )
    zero = content.find(0)
    if zero >= 0:
        raise DataError(
            f"{path} is not plain text: byte {zero:,} is 0. Expected UTF-8. If it is UTF-16 without a mark, convert "
            "it: iconv -f utf-16le -t utf-8"
        )


def windows(train: Sequence[str], test: Sequence[str], *, spec: DataSpec, source: Path) -> tuple[Splits, int]:
    """Return the windows of texts joined in order, and the number of characters outside the vocabulary.

    The vocabulary is "unknown", then the most frequent characters of the training text, ties broken by the lower code
    point. Training windows start at every character; test windows do not overlap.

    Shapes: windows (length,), uint8 for a vocabulary up to 256, otherwise int32.
    Raises: DataError if either part is shorter than a window.
    """
    (length,), size = spec.shape, spec.classes or 1
    held = {part: sum(map(len, texts)) for part, texts in (("training", train), ("test", test))}
    for part, characters in held.items():
        if characters < length:
            raise DataError(
                f"{source} has {sum(held.values()):,} characters, {characters:,} of them in the {part} split: fewer "
                f"than one window of {length}. Use a longer text, or a smaller data.length."
            )
    vocabulary = _vocabulary(train, size)
    tokens = [_tokens(texts, vocabulary, _width(size)) for texts in (train, test)]
    splits = Splits(
        Windows(tokens[0], length=length, stride=1),
        Windows(tokens[1], length=length, stride=length),
        source=shown(source),
        characters=vocabulary,
    )
    return splits, sum(int((part == 0).sum()) for part in tokens)


def _vocabulary(texts: Sequence[str], size: int) -> str:
    counts = np.zeros(_POINTS, dtype=np.int64)
    for points in _code_points(texts):
        counts += np.bincount(points, minlength=_POINTS)
    counts[ord(UNKNOWN)] = 0
    present = np.flatnonzero(counts)
    frequent = present[np.argsort(-counts[present], kind="stable")][: size - 1]
    return UNKNOWN + "".join(map(chr, frequent))


def _tokens(texts: Sequence[str], characters: str, width: np.dtype) -> Tensor:
    token = np.zeros(_POINTS, dtype=width)
    token[[ord(character) for character in characters]] = np.arange(len(characters))
    return torch.from_numpy(np.concatenate([token[points] for points in _code_points(texts)]))


def _code_points(texts: Sequence[str]) -> Iterator[np.ndarray]:
    for text in texts:
        for start in range(0, len(text), _AT_ONCE):
            yield np.frombuffer(text[start : start + _AT_ONCE].encode("utf-32-le"), dtype="<u4")


def _width(vocabulary: int) -> np.dtype:
    return np.dtype(np.uint8 if vocabulary <= 256 else np.int32)
