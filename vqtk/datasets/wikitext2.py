"""WikiText-2 as characters, if it is present or can be downloaded."""

from http.client import HTTPException
from pathlib import Path

from vqtk.datasets._base import Splits
from vqtk.datasets._characters import Characters, read_text, windows
from vqtk.datasets._official import quietly
from vqtk.errors import DataError
from vqtk.nn.types import Count
from vqtk.registry import datasets

_URL = "https://wikitext.smerity.com/wikitext-2-v1.zip"
_MD5 = "542ccefacc6c27f945fb54453812b3cd"
_LINES = {"train": 36_718, "test": 4_358}
_CHARACTERS = 12_000_000
_NAMES = {part: f"wiki.{part}.tokens" for part in ("train", "valid", "test")}


@datasets.register("wikitext2")
class WikiText2(Characters):
    """Windows of `length` characters of Wikipedia, with the published training and test texts.

    Token 0 is "unknown"; the others are the `vocabulary` - 1 most frequent characters of the training text. Training
    windows start at every character; test windows do not overlap.

    Shapes: examples (length,), indices into a vocabulary of `vocabulary` characters.
    Raises: DataError if the files are damaged, or missing and cannot be downloaded.
    Source: Merity et al. 2016.
    """

    def __init__(self, *, length: Count = 128, vocabulary: Count = 100):
        super().__init__(length=length, vocabulary=vocabulary)

    def count(self, root: Path) -> int:
        """Return the number of characters, assuming one byte for each; if missing, about that of the complete set."""
        found = _find(root)
        if found is None:
            return _CHARACTERS
        files = [found / _NAMES[part] for part in _LINES]
        return sum(path.stat().st_size for path in files if path.is_file())

    def missing(self, root: Path) -> str:
        """Return a sentence if the files are not under `root` yet."""
        return "" if _find(root) else f"WikiText-2 is not in {root}; the first run downloads it."

    def load(self, root: Path) -> Splits:
        """Read the text under `root`, or download it there."""
        folder = _find(root) or _downloaded(root)
        missing = [_NAMES[part] for part in _LINES if not (folder / _NAMES[part]).is_file()]
        if missing:
            raise DataError(
                f"{folder}: {' and '.join(missing)} missing. Expected {', '.join(_NAMES.values())}. Delete the folder "
                "to download them again."
            )
        texts = {part: read_text(folder / _NAMES[part]) for part in _LINES}
        splits, _ = windows([texts["train"]], [texts["test"]], spec=self.spec, source=folder)
        splits.note = _note(folder, texts)
        return splits


def _find(root: Path) -> Path | None:
    """Return the folder with any of the three files, at `root` or below it; None if there is none."""
    places = (root / "wikitext2" / "wikitext-2", root / "wikitext-2", root / "wikitext2", root)
    return next((place for place in places if any((place / name).is_file() for name in _NAMES.values())), None)


def _downloaded(root: Path) -> Path:
    """Download the text and return its folder. Raises: DataError that says where to put it."""
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        with quietly():
            download_and_extract_archive(_URL, str(root / "wikitext2"), md5=_MD5, remove_finished=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"WikiText-2 is not in {root} and could not be downloaded from {_URL} ({type(error).__name__}). Unpack "
            f"wikitext-2-v1.zip to get {root / 'wikitext2' / 'wikitext-2'}/{', '.join(_NAMES.values())}; "
            "or set VQTK_DATA or --data-dir to the folder that holds wikitext2."
        ) from None
    return root / "wikitext2" / "wikitext-2"


def _note(folder: Path, texts: dict[str, str]) -> str | None:
    """Return how the files differ from the official ones; None if they do not."""
    wrong = []
    valid = folder / _NAMES["valid"]
    if valid.is_file() and valid.read_bytes() == (folder / _NAMES["train"]).read_bytes():
        wrong.append(f"{_NAMES['train']} is a copy of {_NAMES['valid']}")
    else:
        for part, official in _LINES.items():
            lines = texts[part].count("\n")
            if lines != official:
                wrong.append(f"{_NAMES[part]} has {lines:,} lines, the official one {official:,}")
    return f"{folder}: {'; '.join(wrong)}: metrics are not comparable with published ones." if wrong else None
