"""Published sets of files: found below the data root or downloaded there, and recognised by their checksums."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vqtk.errors import DataError

_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Official:
    """A published set of files.

    Arguments:
        name: of the data set.
        files: the MD5 of each file; None for a folder.
        below: the folders below the data root in which they may be; downloads go to the first.
        fetch: downloads them into a folder, laid out as in `below[0]` without its first part.
        address: where a person can download them.
    """

    name: str
    files: dict[str, str | None]
    below: tuple[str, ...]
    fetch: Callable[[Path], None]
    address: str

    def find(self, root: Path) -> Path | None:
        """Return the folder with at least one of the files; None if there is no such folder."""
        for folder in self._places(root):
            if any(os.path.exists(folder / name) for name in self.files):
                return folder
        return None

    def missing(self, root: Path) -> str:
        """Return a sentence if no file is there yet; an empty string if some are."""
        if self.find(root):
            return ""
        return f"{self.name} is not in {', '.join(map(str, self._places(root)))}; the first run downloads it."

    def folder(self, root: Path) -> Path:
        """Return the folder with all files, which are downloaded if none is there.

        Raises: DataError if some are missing, or the download fails.
        """
        found = self.find(root) or self._download(root)
        missing = [name for name in self.files if not os.path.exists(found / name)]
        if missing:
            raise DataError(
                f"{found}: {', '.join(missing)} missing. {self.name} is {', '.join(self.files)}, from {self.address}. "
                "Add the missing files, or delete the others to download everything again."
            )
        return found

    def is_complete(self, folder: Path) -> bool:
        """Return whether the files are the published ones, byte for byte."""
        from torchvision.datasets.utils import check_integrity

        return all(md5 is None or check_integrity(folder / name, md5) for name, md5 in self.files.items())

    def note(self, folder: Path, *, train: int, test: int, why: str = "checksums differ") -> str:
        """Return a line that says that the files are not the official ones, and why."""
        return (
            f"{self.name} in {folder}: {train:,} + {test:,} images that are not the official files ({why}); "
            "metrics are not comparable with published ones."
        )

    def _places(self, root: Path) -> list[Path]:
        return [root / below for below in self.below]

    def _download(self, root: Path) -> Path:
        """Download the files into a temporary folder, and move them to their place when they are complete."""
        places = self._places(root)
        target = root / Path(self.below[0]).parts[0]
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download.") as name, quietly():
                self.fetch(Path(name))
                target.mkdir(exist_ok=True)
                for entry in Path(name).iterdir():
                    entry.replace(target / entry.name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(".")
            raise DataError(
                f"{self.name} is not in {', '.join(map(str, places))}, and downloading it failed ({reason}). Put "
                f"{', '.join(self.files)} from {self.address} into {places[0]}, or set VQTK_DATA or --data-dir to the "
                "folder of the data sets."
            ) from None
        return places[0]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress all output, and limit the wait for a connection to some seconds."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(patience)
