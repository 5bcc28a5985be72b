"""The base class of trackers: a callback that records a run in another tool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqtk.callbacks._base import BESIDES, Callback, Progress, Started
from vqtk.errors import VqtkError, on_one_line


class Tracker(Callback, ABC):
    """Records a run in another tool, where it can be watched while it trains; it changes no result.

    A subclass writes what it is given, each under a name such as `train/choice` and the number of updates done. If the
    tool fails, this is reported once, and training goes on without it.
    """

    def __init__(self) -> None:
        self._say: Callable[[str], None] | None = None
        self._row: dict[str, float] = {}
        self._items: int | None = None

    @abstractmethod
    def open(self, run: Started) -> None:
        """Begin a record with the run's recipe; if `run.done` is not 0, continue the record of this run."""

    @abstractmethod
    def scalars(self, update: int, values: dict[str, float]) -> None:
        """Record numbers by name."""

    @abstractmethod
    def image(self, update: int, name: str, pixels: np.ndarray) -> None:
        """Record an image (h, w, 3), uint8."""

    @abstractmethod
    def text(self, update: int, name: str, text: str) -> None:
        """Record lines of text."""

    @abstractmethod
    def histogram(self, update: int, name: str, counts: list[int]) -> None:
        """Record how often each of the values 0, 1, … occurred."""

    @abstractmethod
    def close(self) -> None:
        """End the record, with everything written."""

    # ── the events of a run ──────────────────────────────────────────────────────────────────────

    def on_start(self, run: Started) -> None:
        """Open the record."""
        self._say, self._row, self._items = run.say, {}, None
        self._record(partial(self.open, run))

    def on_update(self, progress: Progress) -> None:
        """Record training metrics when they are new."""
        if progress.row and progress.row is not self._row:
            self._row = progress.row
            values = {f"train/{name}": value for name, value in progress.row.items()}
            values["train/examples_per_s"] = progress.examples_per_s
            self._record(partial(self.scalars, progress.done, values))

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        """Record test metrics: those of the fixed subset under `test/`, and those of more examples under `final/`."""
        self._items = self._items or row["items"]
        part = "test" if row["items"] == self._items else "final"
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        values = {f"{part}/{name}": value for name, value in numbers.items() if name not in BESIDES}
        self._record(partial(self.scalars, update, values))

    def on_usage(self, update: int, usage: list[list[int]]) -> None:
        """Record how often each option is used, over all stages and at each."""
        pooled = [sum(counts) for counts in zip(*usage, strict=True)]
        self._record(partial(self.histogram, update, "usage/all_stages", pooled))
        for stage, counts in enumerate(usage, start=1):
            self._record(partial(self.histogram, update, f"usage/stage_{stage:02}", counts))

    def on_images(self, update: int, files: dict[str, Path]) -> None:
        """Record images, and samples of text."""
        for name, path in files.items():
            self._record(partial(self._show, update, f"images/{name}", path))

    def on_end(self, finished: bool) -> None:
        """Close the record."""
        self._record(self.close)
        self._say = None

    def _show(self, update: int, name: str, path: Path) -> None:
        if path.suffix == ".txt":
            return self.text(update, name, path.read_text(encoding="utf-8"))
        with Image.open(path) as opened:
            self.image(update, name, np.asarray(opened.convert("RGB")))

    def _record(self, write: Callable[[], None]) -> None:
        """Call the tool, unless it has failed before. A hosted one fails when the network does."""
        if self._say is None:
            return
        try:
            write()
        except Exception as error:
            name, say, self._say = type(self).__name__, self._say, None
            say(f"{name}: tracking has stopped, and training goes on: {on_one_line(error)}")


_INSTALL = "pip install 'vqtk[track]'"
MOST_BINS = 512
"""The most bins of a histogram that Weights & Biases and Trackio take."""


def binned(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of 0, 1, … as a histogram: its counts (b,), and the edges of its bins (b + 1,).

    Neighbouring values share a bin if there are more than `MOST_BINS`.
    """
    edges = np.linspace(0, len(counts), min(len(counts), MOST_BINS) + 1).round().astype(int)
    return np.add.reduceat(counts, edges[:-1]), edges - 0.5


def require_installed(tracker: str, package: str) -> None:
    """Raise VqtkError that names the extra to install if a tracker's package is missing; it is not imported yet."""
    if find_spec(package) is None:
        raise VqtkError(f"the tracker {tracker!r} needs {package}, which is not installed. Run: {_INSTALL}.")
