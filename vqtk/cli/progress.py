"""Display of a study in progress: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from vqtk.callbacks import Shown, duration
from vqtk.compare.collect import read_study
from vqtk.files import RUN, is_locked
from vqtk.io.run_files import read_rows, watched_of
from vqtk.metrics import CurveMetric, SampleMetric, metric_class
from vqtk.process import stopping_on_signals
from vqtk.study.plan import Plan
from vqtk.study.state import SETTLED, STATES, Event, State, read_state

LINES_EVERY_S = 30.0
DRAWN_EVERY_S = 1.0
LOST = "lost"
"""The state of a run whose worker is recorded as running and gives no sign of life."""
_LOOK_S = 1.0
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


@dataclass(frozen=True)
class RunOfStudy:
    """A run that is shown: its variant and seed, its updates, and the examples of each; None if that is not known."""

    variant: str
    seed: int
    updates: int | None
    examples: int | None


@dataclass(frozen=True)
class ShownStudy:
    """The runs of a study that are shown, by their directories, and the metric that is shown of them."""

    runs: dict[Path, RunOfStudy]
    metric: str


def shown_of(plan: Plan, folder: Path) -> ShownStudy:
    """Return what to show of a plan."""
    runs = {
        folder / run.path: RunOfStudy(
            run.variant.name, run.seed, run.variant.recipe.train.updates, run.variant.recipe.examples_per_update
        )
        for run in plan.runs()
    }
    return ShownStudy(runs, _shown_metric([metric.name for metric in plan.study.metrics]))


def _shown_in(folder: Path) -> ShownStudy:
    """Return what to show of the study in a folder. Raises: CheckpointError if its study.json is damaged."""
    found = read_study(folder)
    runs = {
        folder / one["path"]: RunOfStudy(one["variant"], one.get("seed", 0), one.get("updates"), one.get("examples"))
        for one in found["cells"]
    }
    return ShownStudy(runs, _shown_metric([metric["name"] for metric in found.get("metrics", [])]))


def _shown_metric(names: Sequence[str]) -> str:
    """Return the first metric that evaluations during training report."""
    later = (CurveMetric, SampleMetric)
    known = [name for name in names if not name.startswith("stages.")]
    return next((name for name in known if not issubclass(metric_class(name) or object, later)), "final")


def shown_state(path: Path) -> State:
    """Return the state of a run to show: that of one whose worker gives no sign of life is `LOST`."""
    state = read_state(path)
    return replace(state, state=LOST) if state.state == "running" and not is_locked(path / RUN) else state


class PlainBoard(Shown):
    """Prints a line when a run starts or ends, and regularly one for each running one."""

    stop = False

    def __init__(self, shown: ShownStudy, console: Console):
        super().__init__(console)
        self.cells, self.metric = shown.runs, shown.metric
        self.last = time.monotonic()

    def happened(self, event: Event) -> None:
        """Print that a run has started or ended."""
        state = read_state(event.run)
        counts = self.counts([read_state(path).state for path in self.cells])
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
            state = shown_state(path)
            if state.state in ("running", LOST):
                done, left, speed = self.step(path, cell)
                host = f" on {state.host}" if state.host else ""
                rest = "no sign of life" if state.state == LOST else f"{left} left  {speed} examples/s"
                self.say(f"        {self.named(cell)}  {done}  {self.figure(path)}  {rest}{host}")

    def counts(self, states: Sequence[str]) -> str:
        """Return how many runs are in each state."""
        each = Counter(states)
        return ", ".join(f"{each[name]} {name}" for name in (*STATES, LOST) if each[name])

    def named(self, cell: RunOfStudy) -> str:
        """Return the variant and seed of a run."""
        return f"{cell.variant} seed {cell.seed}"

    def figure(self, path: Path) -> str:
        """Return the main metric so far."""
        value = progress_of(path).figures.get(self.metric)
        return f"{self.metric} {value:.5g}" if isinstance(value, (int, float)) else ""

    def step(self, path: Path, cell: RunOfStudy) -> tuple[str, str, str]:
        """Return the current update of a run, the time left, and its examples per second, as text."""
        far = progress_of(path)
        left = duration((cell.updates - far.update) * far.step_s) if far.step_s and cell.updates else "…"
        speed = f"{cell.examples / far.step_s:,.0f}" if far.step_s and cell.examples else "…"
        return f"{far.update}/{cell.updates or '…'}", left, speed


class LiveBoard(PlainBoard):
    """Redraws a table of the runs."""

    def __init__(self, shown: ShownStudy, console: Console):
        super().__init__(shown, console)
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
        states = {path: shown_state(path) for path in self.cells}
        table = Table(
            "variant", "seed", "state", "update", self.metric, "left", "examples/s", "host", box=None,
            caption=self.counts([state.state for state in states.values()]), caption_justify="left",
        )  # fmt: skip
        paths = list(self.cells)
        if len(paths) > _SHOWN:
            order = {"running": 0, LOST: 0, "failed": 1, "stopped": 2, "done": 3, "waiting": 4}
            paths = sorted(paths, key=lambda path: order.get(states[path].state, 5))[:_SHOWN]
        for path in paths:
            table.add_row(*self._row(path, states[path]))
        return table

    def _row(self, path: Path, state: State) -> list[str]:
        cell = self.cells[path]
        done, left, speed = self.step(path, cell) if state.state != "waiting" else ("", "", "")
        figure = self.figure(path).removeprefix(f"{self.metric} ")
        now = [left, speed] if state.state == "running" else ["", ""]
        return [cell.variant, str(cell.seed), state.state, done, figure, *now, state.host or ""]


def make_board(shown: ShownStudy) -> PlainBoard | LiveBoard:
    """Return the board that fits the output."""
    console = Console(highlight=False, soft_wrap=True)
    return LiveBoard(shown, console) if console.is_terminal else PlainBoard(shown, console)


def watch_study(folder: Path) -> None:
    """Show how the study in a folder goes, by its files alone, until it has ended or a signal comes.

    Raises: CheckpointError if its study.json is damaged.
    """
    board = make_board(_shown_in(folder))
    with board, stopping_on_signals(board):
        for event in _changes(folder, board):
            if board.stop:
                break
            if event:
                board.happened(event)
            else:
                board.tick()


def _changes(folder: Path, board: PlainBoard) -> Iterator[Event | None]:
    """Yield the runs that start and end, by their states, and None every moment, until all have ended."""
    seen: dict[Path, str] = {}
    while True:
        going_on = is_locked(folder / "lock")
        board.cells = _shown_in(folder).runs  # A study that adapts adds some.
        for path in board.cells:
            state, before = read_state(path), seen.get(path, "waiting")
            seen[path] = state.state
            if state.state != before:
                yield Event(path, "begun" if state.state == "running" else "ended", state.worker or "")
        yield None
        if not going_on and all(seen[path] in SETTLED for path in board.cells):
            return
        time.sleep(_LOOK_S)
