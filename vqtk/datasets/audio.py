"""Sounds: windows of .wav files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt, doc

from vqtk.datasets._base import Dataset, Splits, megabytes
from vqtk.datasets._layout import layout_of
from vqtk.datasets._listing import listed
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._split import DAMAGED_AT_MOST, HELD_AT_MOST, Held
from vqtk.datasets._waves import read_wave, wave_claims
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec, Positive
from vqtk.registry import datasets

_EXPECTED = "a folder of .wav files, or a single one"
Rate = Annotated[int, Ge(1_000), Le(192_000), doc("a whole number from 1,000 to 192,000, in Hz")]
Length = Annotated[int, Ge(1), Le(1 << 20), doc("a whole number from 1 to 1,048,576")]


@datasets.register("audio", example={"path": "sounds", "length": 64})
class Audio(Dataset):
    """Sounds in .wav files, mono, cut into windows of `length` samples at `rate` Hz that do not overlap.

    `path` is absolute, or below the data root or the working directory. Channels are averaged, and other rates are
    converted. A folder is divided and labelled like one of images; of a single file, the end is the test split, a
    fraction `test`. A file shorter than a window is padded with silence; of a longer one the rest is left out.
    Training units are samples, from -1 to 1, divided by `unit`. Samples and reconstructions are also written as .wav.

    Shapes: examples (1, length), float32, in training units.
    Raises: DataError if there are none, too many to hold in memory, or more than a tenth of the files are damaged.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        rate: Rate = 8_000,
        length: Length = 1_024,
        unit: Positive = 0.1,
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ):
        self.path, self.rate, self.length, self.unit, self.test = path, rate, length, unit, test

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        return DataSpec("signals", (1, self.length), std=self.unit, rate=self.rate)

    @property
    def bytes_per_item(self) -> int:
        """The bytes of an example in memory."""
        return 4 * self.length

    def count(self, root: Path) -> int | None:
        """Return the number of windows that the headers of the files claim; None if there are none."""
        found = existing(self.path, root)
        return None if found is None else self._claimed(_files(found)) or None

    def plan(self, root: Path) -> str:
        """Return in words how the examples are read, and the memory that they take."""
        windows = self.count(root)
        if windows is None:
            return "none found yet; in memory"
        held = windows * self.bytes_per_item
        return f"in memory, {windows:,} windows of {self.length / self.rate:.3g} s = {megabytes(held)}"

    def load(self, root: Path) -> Splits:
        """Read the files."""
        found = required(self.path, root, expected=_EXPECTED)
        files = _files(found)
        if not files:
            raise DataError(f"{found} holds no .wav file. Expected {_EXPECTED}.")
        held = self._claimed(files) * self.bytes_per_item
        if held > HELD_AT_MOST:
            raise DataError(
                f"{found} holds {held:,} bytes of sound at {self.rate:,} Hz; at most {HELD_AT_MOST:,} fit in memory. "
                "Use fewer files, or a lower data.rate."
            )
        return self._of_file(found) if found.is_file() else self._of_folder(found)

    def _claimed(self, files: Sequence[Path]) -> int:
        claims = filter(None, map(wave_claims, files))
        return sum(max(1, int(samples * self.rate / max(rate, 1)) // self.length) for rate, samples in claims)

    def _windows(self, path: Path) -> np.ndarray:
        """Return the windows of a file in training units, (n, 1, length). Raises: DataError."""
        samples = read_wave(path, self.rate)
        if not len(samples):
            raise DataError(f"{shown(path)} has no samples.")
        missing = max(0, self.length - len(samples))
        whole = np.pad(samples, (0, missing))
        count = len(whole) // self.length
        return (whole[: count * self.length] / np.float32(self.unit)).reshape(count, 1, self.length)

    def _of_file(self, path: Path) -> Splits:
        windows = self._windows(path)
        held = min(max(1, round(self.test * len(windows))), len(windows) - 1)
        if not held:
            raise DataError(f"{path} holds a single window of {self.length:,} samples. Expected some to test on.")
        train, test = (Held(torch.from_numpy(part)) for part in (windows[:-held], windows[-held:]))
        return Splits(train, test, source=shown(path))

    def _of_folder(self, folder: Path) -> Splits:
        layout = layout_of(listed(folder, wanted=_is_wave), share=self.test).check(folder, self.test)
        errors: dict[Path, DataError] = {}
        splits = [self._held(folder, part, layout.labels(part), errors) for part in (layout.train, layout.test)]
        if errors and (
            len(errors) > DAMAGED_AT_MOST * (len(layout.train) + len(layout.test)) or not all(map(len, splits))
        ):
            first = next(iter(errors.values()))
            raise DataError(f"{folder}: {len(errors):,} files cannot be read. The first: {first}")
        notes = [*layout.notes]
        if errors:
            notes.append(f"Skipped {len(errors):,} files. The first: {next(iter(errors.values()))}")
        train, test = splits
        return Splits(train, test, source=shown(folder), note=" ".join(notes) or None, labels=layout.shown_names())

    def _held(
        self, folder: Path, files: Sequence[Path], labels: np.ndarray | None, errors: dict[Path, DataError]
    ) -> Held:
        found, which, skipped = list[np.ndarray](), list[int](), list[str]()
        for index, file in enumerate(files):
            try:
                found.append(self._windows(folder / file))
            except DataError as error:
                errors[file] = error
                skipped.append(shown(folder / file))
                continue
            which += [0 if labels is None else labels[index]] * len(found[-1])
        windows = torch.from_numpy(np.concatenate(found)) if found else torch.empty(0, 1, self.length)
        return Held(windows, None if labels is None else torch.tensor(which, dtype=torch.int64), skipped=skipped)


def _files(found: Path) -> list[Path]:
    return [found / file for file in listed(found, wanted=_is_wave)] if found.is_dir() else [found]


def _is_wave(name: str) -> bool:
    return name.lower().endswith(".wav")
