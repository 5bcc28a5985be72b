"""Display of a study in progress: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from vqtk.callbacks import Shown, duration
from vqtk.compare.metrics import Criterion
from vqtk.io.run_files import read_rows, watched_of
from vqtk.metrics import CurveMetric, SampleMetric, metric_class
from vqtk.study.plan import Plan, PlannedRun
from vqtk.study.worker import STATES, Event, State, read_state

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


def _shown(metrics: Sequence[Criterion]) -> str:
    """Return the first metric that evaluations during training report."""
    later = (CurveMetric, SampleMetric)
    known = [one.name for one in metrics if one.stage is None]
    return next((name for name in known if not issubclass(metric_class(name) or object, later)), "final")


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
