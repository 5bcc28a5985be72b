"""The user's own text as characters: a file, or a folder of files."""

from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from vqtk.datasets._base import Splits
from vqtk.datasets._characters import Characters, read_text, windows
from vqtk.datasets._layout import splits_by_folder
from vqtk.datasets._listing import Listing, listed
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._split import HELD_AT_MOST
from vqtk.errors import DataError
from vqtk.nn.types import Count
from vqtk.registry import datasets

Divided = tuple[list[str], list[str], list[str]]
"""Texts to train on, texts to test on, and lines for the user about what was decided."""


@datasets.register("text")
class Text(Characters):
    """Windows of `length` characters of your own text: a file, or every UTF-8 file below a folder, sorted by name.

    `path` is absolute, or below the data root or the working directory. The last fraction `test` of each file is held
    out, unless there are folders that are splits, such as `train` and `test` or `val`. Token 0 is "unknown"; the
    others are the `vocabulary` - 1 most frequent characters of the training text. Training windows start at every
    character and may span files; test windows do not overlap.

    Shapes: examples (length,), indices into a vocabulary of `vocabulary` characters.
    Raises: DataError if there is no text, or a split is shorter than a window.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        length: Count = 128,
        vocabulary: Count = 100,
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ):
        super().__init__(length=length, vocabulary=vocabulary)
        self.path = path
        self.test = test

    def count(self, root: Path) -> int | None:
        """Return the number of characters, assuming one byte for each; None if there is no text."""
        found = existing(self.path, root)
        if found is None:
            return None
        files = [found / file for file in listed(found)] if found.is_dir() else [found]
        return sum(file.stat().st_size for file in files)

    def load(self, root: Path) -> Splits:
        """Read the text, and hold out the end of each file, or the files of the test folder."""
        found = required(self.path, root, expected="a text file, or a folder of text files, in UTF-8")
        texts, errors = _read(found)
        train, test, notes = _by_folder(texts) or _ends(texts, self.test)
        splits, unknown = windows(train, test, spec=self.spec, source=found)
        splits.train.skipped += [shown(found / file) for file in errors]
        lines = [*self._beyond(unknown, sum(map(len, texts.values()))), *_left_out(list(errors.values()))]
        splits.note = " ".join([*notes, *lines]) or None
        return splits

    def _beyond(self, unknown: int, characters: int) -> list[str]:
        if not unknown:
            return []
        share = f"{unknown:,} of {characters:,} characters ({100 * unknown / characters:.2g} %)"
        return [f"{share} are outside the vocabulary of {self.vocabulary} and read as unknown (data.vocabulary)."]


def _read(found: Path) -> tuple[dict[Path, str], dict[Path, DataError]]:
    """Return the texts of a file or folder by relative path, and the errors of other files. Raises: DataError."""
    if not found.is_dir():
        return {Path(): read_text(found)}, {}
    texts, errors = dict[Path, str](), dict[Path, DataError]()
    files = listed(found)
    _check_sizes(found, files)
    for file in files:
        try:
            texts[file] = read_text(found / file)
        except DataError as error:
            errors[file] = error
    if not texts:
        first = f" The first: {next(iter(errors.values()))}" if errors else ""
        raise DataError(
            f"{found} holds no text: {len(errors)} files, none in UTF-8. Expected a text file, or a folder of text "
            f"files, in UTF-8.{first}"
        )
    return texts, errors


def _check_sizes(folder: Path, files: Listing) -> None:
    """Raise DataError if the files together are too large to hold in memory."""
    size = int(files.sizes.sum())
    if size > HELD_AT_MOST:
        raise DataError(
            f"{folder} holds text files of {size:,} bytes; at most {HELD_AT_MOST:,} are read. Give a part of it."
        )


def _ends(texts: dict[Path, str], share: float) -> Divided:
    """Return the texts without their ends, and the ends, a fraction of each."""
    held = [int(len(text) * share) for text in texts.values()]
    pairs = list(zip(texts.values(), held, strict=True))
    return [text[: len(text) - end] for text, end in pairs], [text[len(text) - end :] for text, end in pairs], []


def _by_folder(texts: dict[Path, str]) -> Divided | None:
    """Return the texts divided by folders that are splits, and notes; None if there are no such folders."""
    found = splits_by_folder(list(texts))
    if found is None:
        return None
    train, test, notes = found
    return [texts[file] for file in train], [texts[file] for file in test], notes


def _left_out(errors: list[DataError]) -> list[str]:
    """Return a line about the files that are not text, with the error of the first."""
    if not errors:
        return []
    return [f"Left out as not UTF-8 text: {len(errors)} file{'s' * (len(errors) > 1)}. The first: {errors[0]}"]
