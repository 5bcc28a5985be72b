"""A user's own text as characters: one file, or a folder of them."""

from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from vqtk.datasets._base import Splits
from vqtk.datasets._characters import Characters, read_text, windows
from vqtk.datasets._paths import existing, files_below, required
from vqtk.errors import DataError
from vqtk.nn.types import Count
from vqtk.registry import datasets


@datasets.register("text")
class Text(Characters):
    """Windows of `length` characters of your own text: a file, or every UTF-8 file below a folder, in order of name.

    `path` is absolute, or below the data root or the working directory. The last share `test` of each file is held
    out. Token 0 is "unknown"; the others are the `vocabulary` - 1 most frequent characters of the training text.
    Training windows start at every character, and run on from one file to the next; test windows do not overlap.

    Shapes: items (length,), indices into a vocabulary of `vocabulary` characters.
    Raises: DataError if there is no text, or less than a window in either part.
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
        """Return how many characters there are, taking each for a byte."""
        found = existing(self.path, root)
        return None if found is None else sum(path.stat().st_size for path in _files(found))

    def load(self, root: Path) -> Splits:
        """Read the text and hold out the end of each file."""
        found = required(self.path, root, expected="a text file, or a folder of text files, in UTF-8")
        texts, skipped = _read(found)
        held = [int(len(text) * self.test) for text in texts]
        train = [text[: len(text) - end] for text, end in zip(texts, held, strict=True)]
        test = [text[len(text) - end :] for text, end in zip(texts, held, strict=True)]
        splits, unknown = windows(train, test, spec=self.spec, source=found)
        splits.train.skipped += map(str, skipped)
        splits.note = " ".join([*self._beyond(unknown, sum(map(len, texts))), *_left_out(skipped)]) or None
        return splits

    def _beyond(self, unknown: int, characters: int) -> list[str]:
        if not unknown:
            return []
        share = f"{unknown:,} of {characters:,} characters ({100 * unknown / characters:.2g} %)"
        return [f"{share} are beyond the vocabulary of {self.vocabulary}: they read as unknown (data.vocabulary)."]


def _files(found: Path) -> list[Path]:
    return files_below(found) if found.is_dir() else [found]


def _read(found: Path) -> tuple[list[str], list[Path]]:
    """Return the texts, and the files of a folder that are not text."""
    if not found.is_dir():
        return [read_text(found)], []
    texts, skipped = [], []
    for path in files_below(found):
        try:
            texts.append(read_text(path))
        except DataError:
            skipped.append(path)
    if not texts:
        raise DataError(
            f"{found} holds no text: {len(skipped)} files, none in UTF-8. Expected a text file, or a folder of text "
            "files, in UTF-8."
        )
    return texts, skipped


def _left_out(skipped: list[Path]) -> list[str]:
    if not skipped:
        return []
    return [f"Left out as not UTF-8 text: {len(skipped)} file{'s' * (len(skipped) > 1)}, such as {skipped[0]}."]
