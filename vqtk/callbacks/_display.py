"""The display of a run in progress: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from vqtk.callbacks._base import BESIDES, Callback, Progress

if TYPE_CHECKING:
    from typing_extensions import Self

LINE_EVERY_S = 10.0
LONG_S = 3600.0
_TELLING = 5
"""Updates after which the time of the whole run is estimated."""


def make_display(*, shorter: str | None) -> PlainDisplay | LiveDisplay:
    """Return the display that fits the output. `shorter` is a command for a shorter run."""
    # A notebook claims to be a terminal (FORCE_COLOR), but every redrawing would stay in the cell.
    plain = False if Console().is_jupyter else None
    console = Console(highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=plain)
    return LiveDisplay(console, shorter) if console.is_terminal else PlainDisplay(console, shorter)


class Shown:
    """Prints lines to a console and redraws `live` below them within the context."""

    live: RichLive | None = None

    def __init__(self, console: Console):
        self.console = console

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False)

    def close(self) -> None:
        """Stop redrawing."""
        if self.live:
            self.live.stop()


class PlainDisplay(Shown, Callback):
    """Prints one line every ten seconds."""

    def __init__(self, console: Console, shorter: str | None):
        super().__init__(console)
        self.shorter = shorter
        self.last_line = 0.0
        self.last_row: dict[str, float] | None = None
        self.first: tuple[float, int] | None = None
        self.warned = False

    def on_message(self, line: str) -> None:
        """Print a line."""
        self.say(line)

    def on_update(self, progress: Progress) -> None:
        """Print the newest metrics when a line is due."""
        done, updates = progress.done, progress.updates
        self.foretell(done, updates)
        due = time.monotonic() - self.last_line >= LINE_EVERY_S or done == updates
        if due and progress.row and progress.row is not self.last_row:
            self.last_line, self.last_row = time.monotonic(), progress.row
            rate, left = f"{progress.examples_per_s:.0f} examples/s", self.left(done, updates)
            self.on_message(f"{done}/{updates}  {_figures(progress.row)}  {rate}  {left} left")

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        """Print the metrics of test or validation examples."""
        split = "validation" if row.get("validation") else "test"
        self.on_message(f"{split} after {update}, {_on(row)}  {_figures(row)}")

    def foretell(self, done: int, updates: int) -> None:
        """After a few updates, print the estimated time once if it exceeds an hour."""
        if self.first is None:
            self.first = (time.monotonic(), done)
        if self.warned or done - self.first[1] < _TELLING:
            return
        self.warned = True
        if self.left_s(done, updates) > LONG_S:
            advice = f" A shorter one: {self.shorter}" if self.shorter else ""
            self.on_message(f"This run will take about {self.left(done, updates)} more.{advice}")

    def left_s(self, done: int, updates: int) -> float:
        """Return the seconds left, from the mean time of the updates so far."""
        assert self.first
        began, before = self.first
        return (time.monotonic() - began) / max(1, done - before) * (updates - done)

    def left(self, done: int, updates: int) -> str:
        """Return the time left as text."""
        if self.first is None or done <= self.first[1] < updates - 1:
            return "…"
        return duration(self.left_s(done, updates))


class LiveDisplay(PlainDisplay):
    """Redraws a progress bar with the metrics below it."""

    def __init__(self, console: Console, shorter: str | None):
        super().__init__(console, shorter)
        self.bar = RichProgress(
            TextColumn("update"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[speed]} examples/s"),
            TextColumn("{task.fields[left]} left"),
        )
        self.task = self.bar.add_task("", total=None, speed="…", left="…")
        self.figures = Text("", no_wrap=True)
        self.live = RichLive(Group(self.bar, self.figures), console=console, refresh_per_second=4)

    def on_update(self, progress: Progress) -> None:
        """Redraw."""
        done, updates = progress.done, progress.updates
        self.foretell(done, updates)
        left, speed = self.left(done, updates), f"{progress.examples_per_s:.0f}"
        self.bar.update(self.task, completed=done, total=updates, speed=speed, left=left)
        if progress.row:
            self.figures.plain = _figures(progress.row)


def _on(row: dict[str, Any]) -> str:
    """Describe the test examples of a row: a subset may be easier or harder than the split."""
    items, every = row["items"], row.get("of", row["items"])
    return f"all {items:,} examples" if items == every else f"a fixed {items:,} of {every:,} examples"


def _figures(row: dict[str, Any]) -> str:
    """Return the terms of a row, and the code usage, in one line."""
    beside = (*BESIDES, "entropy_pooled_nats", "used", "lr", "grad_norm")
    terms = {key: value for key, value in row.items() if key not in beside and value is not None}
    shown = "  ".join(f"{key} {value:{'.4f' if abs(value) >= 0.1 else '.4g'}}" for key, value in terms.items())
    return f"{shown}  entropy {row['entropy_pooled_nats']:.2f} nats  used {row['used']}"


def duration(seconds: float) -> str:
    """Return a time as text."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
