"""How a run is shown: live where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from vqtk.train.loop import Callback, Progress

LINE_EVERY_S = 10.0
LONG_S = 3600.0
_TELLING = 5
"""Updates after which the time of the whole run is foretold."""


def make_display(*, shorter: str | None) -> PlainDisplay | LiveDisplay:
    """Return the watcher that suits where the output goes; `shorter` is a command for a shorter run."""
    console = Console(highlight=False, soft_wrap=True)
    return LiveDisplay(console, shorter) if console.is_terminal else PlainDisplay(console, shorter)


class PlainDisplay(Callback):
    """One line every ten seconds."""

    def __init__(self, console: Console, shorter: str | None):
        self.console, self.shorter = console, shorter
        self.last_line = 0.0
        self.last_row: dict[str, float] | None = None
        self.first: tuple[float, int] | None = None
        self.warned = False

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def on_message(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False)

    def on_update(self, progress: Progress) -> None:
        """Print the newest metrics, if it is time to."""
        done, updates = progress.done, progress.updates
        self.foretell(done, updates)
        due = time.monotonic() - self.last_line >= LINE_EVERY_S or done == updates
        if due and progress.row and progress.row is not self.last_row:
            self.last_line, self.last_row = time.monotonic(), progress.row
            rate, left = f"{progress.examples_per_s:.0f} items/s", self.left(done, updates)
            self.on_message(f"{done}/{updates}  {_figures(progress.row)}  {rate}  {left} left")

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        """Print the metrics of test items."""
        self.on_message(f"test after {update}, {_on(row)}  {_figures(row)}")

    def foretell(self, done: int, updates: int) -> None:
        """Say once, after a few updates, if the whole run will take hours."""
        if self.first is None:
            self.first = (time.monotonic(), done)
        if self.warned or done - self.first[1] < _TELLING:
            return
        self.warned = True
        if self.left_s(done, updates) > LONG_S:
            advice = f" A shorter one: {self.shorter}" if self.shorter else ""
            self.on_message(f"This run will take about {self.left(done, updates)} more here.{advice}")

    def left_s(self, done: int, updates: int) -> float:
        """Return the seconds left, by the mean time of the updates so far."""
        assert self.first
        began, before = self.first
        return (time.monotonic() - began) / max(1, done - before) * (updates - done)

    def left(self, done: int, updates: int) -> str:
        """Return the time left in words."""
        if self.first is None or done <= self.first[1] < updates - 1:
            return "…"
        seconds = self.left_s(done, updates)
        if seconds >= LONG_S:
            return f"{seconds / 3600:.1f} h"
        return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


class LiveDisplay(PlainDisplay):
    """A progress bar, and the figures below it, redrawn in place."""

    def __init__(self, console: Console, shorter: str | None):
        super().__init__(console, shorter)
        self.bar = RichProgress(
            TextColumn("update"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[speed]} items/s"),
            TextColumn("{task.fields[left]} left"),
        )
        self.task = self.bar.add_task("", total=None, speed="…", left="…")
        self.figures = Text("", no_wrap=True)
        self.live = RichLive(Group(self.bar, self.figures), console=console, refresh_per_second=4)

    def __enter__(self) -> LiveDisplay:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def on_update(self, progress: Progress) -> None:
        """Redraw."""
        done, updates = progress.done, progress.updates
        self.foretell(done, updates)
        left, speed = self.left(done, updates), f"{progress.examples_per_s:.0f}"
        self.bar.update(self.task, completed=done, total=updates, speed=speed, left=left)
        if progress.row:
            self.figures.plain = _figures(progress.row)


def _on(row: dict[str, Any]) -> str:
    """Return in words which test items a row is about: a subset may be easier, or harder, than the split."""
    items, every = row["items"], row.get("of", row["items"])
    return f"all {items:,} items" if items == every else f"a fixed {items:,} of {every:,} items"


def _figures(row: dict[str, Any]) -> str:
    """Return the terms of a row, and the code usage, in one line."""
    beside = ("items", "of", "entropy_pooled_nats", "used", "lr")
    terms = {key: value for key, value in row.items() if key not in beside and value is not None}
    shown = "  ".join(f"{key} {value:{'.4f' if abs(value) >= 0.1 else '.4g'}}" for key, value in terms.items())
    return f"{shown}  entropy {row['entropy_pooled_nats']:.2f} nats  used {row['used']}"
