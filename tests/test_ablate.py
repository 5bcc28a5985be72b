"""A study run: killed and gone on with, a failing run, and one process at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import vqtk_main
from vqtk.cli.progress import progress_of
from vqtk.errors import VqtkError
from vqtk.files import locked
from vqtk.study.executors import Local
from vqtk.study.plan import Plan, plan, write_plan
from vqtk.study.runner import run_study
from vqtk.study.state import STOP, Event, Settings, State, read_state, write_state
from vqtk.study.study import load_study
from vqtk.study.worker import train_run

STUDY = """\
name: tiny
base: {recipes}/toy2d.yaml
overrides: [data.items=500, data.test=50, data.batch=16, train.evaluate_items=20, train.picture_items=8]
axes:
  condition: {{scale: [], film: ["model.condition=film"]}}
seeds: [0, 1]
equal: {{updates: 30}}
"""
CPU = Settings("cpu", None, 1)
COMMAND = [sys.executable, "-c", "import vqtk.cli; vqtk.cli.main()", "ablate", "study.yaml", "--device", "cpu"]


class Here:
    """An executor that runs runs in this process."""

    workers, settings = 1, CPU

    def __init__(self) -> None:
        self.waiting: list[Path] = []
        self.ran: list[Path] = []

    def submit(self, run: Path) -> None:
        self.waiting.append(run)

    def events(self) -> Iterator[Event | None]:
        while self.waiting:
            self.ran.append(self.waiting.pop(0))
            yield Event(self.ran[-1], "begun", "here")
            train_run(self.ran[-1], CPU)
            yield Event(self.ran[-1], "ended", "here")

    def stop(self) -> None:
        self.waiting.clear()

    def kill(self) -> None:
        self.waiting.clear()


class Silent:
    """A board that keeps what it is told."""

    def __init__(self, stop: bool = False) -> None:
        self.lines: list[str] = []
        self.stop = stop

    def happened(self, event: Event) -> None: ...

    def tick(self) -> None: ...

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study to run, without the pictures and pages that take the most time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vqtk.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("vqtk.runs.experiment.write_all", lambda *_: [])
    recipes = Path(__file__).parent.parent / "recipes"
    Path("study.yaml").write_text(STUDY.format(recipes=recipes))


def planned(folder: Path) -> Plan:
    made = plan(load_study(Path("study.yaml")), folder, lambda recipe: 1.0)
    write_plan(made, folder)
    return made


def go(made: Plan, folder: Path, executor: Any, *, stop: bool = False, retry: bool = False) -> list[State]:
    return run_study(made, folder, executor, Silent(stop), retry=retry)


def figures(run: Path) -> list[Any]:
    """What a run measured, less times and memory."""
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key != "step_ms"} for row in rows]
    return [summary["test"], summary["stages"], summary["updates"], kept]


@pytest.mark.thorough
def test_a_study_killed_in_the_middle_goes_on_to_the_same_results() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--workers", "2"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    folder = Path("studies/tiny")
    _wait_for(lambda: any(folder.glob("*/seed0/metrics.jsonl")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made, uninterrupted = planned(folder), Path("uninterrupted")
    done = [run.path for run in made.runs() if read_state(folder / run.path).state == "done"]
    executor = Here()
    assert {state.state for state in go(made, folder, executor)} == {"done"}
    assert len(executor.ran) == 4 - len(done)
    go(planned(uninterrupted), uninterrupted, Here())
    for run in made.runs():
        assert figures(folder / run.path) == figures(uninterrupted / run.path)
    again = Here()
    go(made, folder, again, retry=True)
    assert not again.ran


def _wait_for(happened: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint() -> None:
    folder, other = Path("studies/tiny"), Path("other")
    path = folder / planned(folder).runs()[0].path
    (folder / STOP).touch()
    assert train_run(path, CPU).state == "stopped"
    assert 0 < progress_of(path).update < 30
    (folder / STOP).unlink()
    assert train_run(path, CPU) == State("done", None, 2, f"pid {os.getpid()}", socket.gethostname())
    straight = other / planned(other).runs()[0].path
    train_run(straight, CPU)
    assert figures(path) == figures(straight)


def test_a_study_asked_to_stop_starts_no_other_run() -> None:
    folder, executor = Path("studies/tiny"), Here()
    states = go(planned(folder), folder, executor, stop=True)
    assert [state.state for state in states] == ["stopped", "waiting", "waiting", "waiting"]
    assert not (folder / STOP).exists()


@pytest.mark.parametrize(("script", "told"), [("kill -9 $$", "SIGKILL; the system does so"), ("exit 3", "code 3")])
def test_a_process_that_is_lost_costs_its_run_alone(script: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, stub = Path("studies/tiny"), Path("python").resolve()
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    made = planned(folder)
    write_state(folder / made.runs()[1].path, State("done"))
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setattr("vqtk.study.executors.POLL_S", 0.01)
    states = go(made, folder, Local(CPU, workers=2))
    assert [state.state for state in states] == ["failed", "done", "failed", "failed"]
    assert all(told in str(state.error) for state in states if state.state == "failed")
    executor = Here()
    go(made, folder, executor)
    assert not executor.ran


@pytest.mark.parametrize(("visible", "seen"), [(None, ["0", "1", "2", "0"]), ("4,6", ["4", "6", "4", "6"])])
def test_a_process_sees_one_gpu_alone(visible: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    executor = Local(Settings("auto"))
    assert executor.workers == len(set(seen))
    assert [executor._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == seen
    assert Local(CPU).gpus == []


def test_a_run_that_fails_says_why_and_is_tried_again_when_asked() -> None:
    text = Path("study.yaml").read_text()
    Path("study.yaml").write_text(text.replace('["model.condition=film"]', "[train.optimizer.lr=1e30]"))
    folder = Path("studies/tiny")
    made = planned(folder)
    states = go(made, folder, Here())
    assert [state.state for state in states] == ["done", "failed", "done", "failed"]
    assert "training diverged" in str(states[1].error)
    executor = Here()
    assert [state.attempts for state in go(made, folder, executor, retry=True)] == [1, 2, 1, 2]
    assert len(executor.ran) == 2


def test_a_study_that_runs_elsewhere_is_refused_and_a_lock_left_behind_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Path("studies/tiny/lock")
    with locked(lock, what="it"):
        assert vqtk_main(monkeypatch, "ablate", "study.yaml", "--device", "cpu") == 2
    told = capsys.readouterr().err
    assert "studies/tiny is being run by another process" in told
    assert f'"pid": {os.getpid()}' in told
    lock.write_text('{"pid": 1, "host": "gone"}\n')
    with locked(lock, what="it"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    with locked(lock, what="it"), pytest.raises(VqtkError, match="it is being run"), locked(lock, what="it"):
        pass


def test_a_dry_run_prints_the_variants_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqtk.cli.compare._WIDTH", 72)
    assert vqtk_main(monkeypatch, "ablate", "study.yaml", "--dry-run", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "film" in out
    assert "…" not in out, "names are folded, so that all of them can be told apart"
    assert "5,921" in out
    assert "4 runs" in out
    assert not Path("studies").exists()
