"""Display of a run or study in progress: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from vqtk.compare.metrics import SAMPLES, Metric
from vqtk.io.run_files import read_rows, watched_of
from vqtk.study.plan import Plan, PlannedRun
from vqtk.study.protocol import STATES, Event, State, read_state
from vqtk.train.loop import Callback, Progress

if TYPE_CHECKING:
    from typing_extensions import Self

LINE_EVERY_S = 10.0
LONG_S = 3600.0
_TELLING = 5
"""Updates after which the time of the whole run is estimated."""


def make_display(*, shorter: str | None) -> PlainDisplay | LiveDisplay:
    """Return the display that fits the output. `shorter` is a command for a shorter run."""
    console = Console(highlight=False, soft_wrap=True)
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
        self.on_message(
            f"{'validation' if row.get('validation') else 'test'} after {update}, {_on(row)}  {_figures(row)}"
        )

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
    beside = ("items", "of", "validation", "entropy_pooled_nats", "used", "lr", "grad_norm")
    terms = {key: value for key, value in row.items() if key not in beside and value is not None}
    shown = "  ".join(f"{key} {value:{'.4f' if abs(value) >= 0.1 else '.4g'}}" for key, value in terms.items())
    return f"{shown}  entropy {row['entropy_pooled_nats']:.2f} nats  used {row['used']}"


LINES_EVERY_S = 30.0
DRAWN_EVERY_S = 1.0
_TAIL = 8192
_SHOWN = 30


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run: its last logged update, the newest metrics, and the seconds per update."""

    update: int
    figures: dict[str, Any]
    step_s: float | None


def progress_of(cell: Path) -> RunProgress:
    """Return the progress of a run, from the end of its metrics. Test metrics replace those of training."""
    rows = _last_rows(cell / "metrics.jsonl")
    tested: dict[str, Any] = next(filter(None, map(watched_of, reversed(rows))), {})
    trained: dict[str, Any] = next((row for row in reversed(rows) if "step_ms" in row), {})
    update = max((row.get("update", 0) for row in rows), default=0)
    return RunProgress(update, {**trained, **tested}, trained["step_ms"] / 1e3 if trained else None)


def _last_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return read_rows(lines)  # The first may be cut off, and the last not yet whole.


def _shown(metrics: Sequence[Metric]) -> str:
    """Return the first metric that evaluations during training report."""
    later = {"area", *SAMPLES}
    return next((one.name for one in metrics if one.stage is None and one.name not in later), "final")


class PlainBoard(Shown):
    """Prints a line when a run starts or ends, and regularly one for each running one."""

    stop = False

    def __init__(self, plan: Plan, folder: Path, console: Console):
        super().__init__(console)
        self.folder = folder
        self.cells = {folder / run.path: run for run in plan.runs()}
        self.metric = _shown(plan.study.metrics)
        self.last = time.monotonic()

    def happened(self, event: Event) -> None:
        """Print that a run has started or ended."""
        state = read_state(event.run)
        left = Counter(read_state(path).state for path in self.cells)
        counts = ", ".join(f"{left[name]} {name}" for name in STATES if left[name])
        what = "started" if event.what == "begun" else state.state
        shown = f"  {self.figure(event.run)}" if what == "done" else ""
        self.say(f"{what:<8}{self.named(self.cells[event.run])}{shown}  ({counts})")
        if what == "failed" and state.error:
            self.say(f"        {state.error}")

    def tick(self) -> None:
        """Print the progress of the running ones when lines are due."""
        if time.monotonic() - self.last < LINES_EVERY_S:
            return
        self.last = time.monotonic()
        for path, cell in self.cells.items():
            if read_state(path).state == "running":
                done, left = self.step(path, cell)
                self.say(f"        {self.named(cell)}  {done}  {self.figure(path)}  {left} left")

    def named(self, cell: PlannedRun) -> str:
        """Return the variant and seed of a run."""
        return f"{cell.variant.name} seed {cell.seed}"

    def figure(self, path: Path) -> str:
        """Return the main metric so far."""
        value = progress_of(path).figures.get(self.metric)
        return f"{self.metric} {value:.5g}" if isinstance(value, (int, float)) else ""

    def step(self, path: Path, cell: PlannedRun) -> tuple[str, str]:
        """Return the current update of a run and the time left, as text."""
        far, updates = progress_of(path), cell.variant.recipe.train.updates
        left = duration((updates - far.update) * far.step_s) if far.step_s else "…"
        return f"{far.update}/{updates}", left


class LiveBoard(PlainBoard):
    """Redraws a table of the runs."""

    def __init__(self, plan: Plan, folder: Path, console: Console):
        super().__init__(plan, folder, console)
        self.shown = self.live = RichLive(self.table(), console=console, auto_refresh=False)

    def close(self) -> None:
        """Redraw the table once more and stop."""
        self.shown.update(self.table(), refresh=True)
        super().close()

    def happened(self, event: Event) -> None:
        """Redraw."""
        self.last = 0.0
        self.tick()

    def tick(self) -> None:
        """Redraw when due."""
        if time.monotonic() - self.last >= DRAWN_EVERY_S:
            self.last = time.monotonic()
            self.shown.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return the table of runs. If they do not all fit, running and failed ones come first."""
        states = {path: read_state(path) for path in self.cells}
        counts = Counter(state.state for state in states.values())
        table = Table(
            "variant", "seed", "state", "update", self.metric, "left", box=None,
            caption=", ".join(f"{counts[name]} {name}" for name in STATES if counts[name]), caption_justify="left",
        )  # fmt: skip
        paths = list(self.cells)
        if len(paths) > _SHOWN:
            order = {"running": 0, "failed": 1, "stopped": 2, "done": 3, "waiting": 4}
            paths = sorted(paths, key=lambda path: order.get(states[path].state, 5))[:_SHOWN]
        for path in paths:
            table.add_row(*self._row(path, states[path]))
        return table

    def _row(self, path: Path, state: State) -> list[str]:
        cell = self.cells[path]
        done, left = self.step(path, cell) if state.state != "waiting" else ("", "")
        figure = self.figure(path).removeprefix(f"{self.metric} ")
        return [cell.variant.name, str(cell.seed), state.state, done, figure, left if state.state == "running" else ""]


def make_board(plan: Plan, folder: Path) -> PlainBoard | LiveBoard:
    """Return the board that fits the output."""
    console = Console(highlight=False, soft_wrap=True)
    return LiveBoard(plan, folder, console) if console.is_terminal else PlainBoard(plan, folder, console)


def duration(seconds: float) -> str:
    """Return a time as text."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
