"""Signals stop a run with a checkpoint, and its exit code says which it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parity import ROOT
from tests.running import vqtk_main
from vqtk.errors import VqtkError
from vqtk.process import STOPPING, stopping_on_signals
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.training.execution import choose_device


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """A run of points of the plane that would take hours, in a process of its own."""
    command = ["-m", "vqtk", "run", ROOT / "recipes" / "toy2d.yaml", "train.updates=10_000_000", "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, *command, *overrides, "--out", folder],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(folder: Path, pattern: str) -> Path:
    for _ in range(1200):
        found = sorted(folder.glob(pattern))
        if found and found[0].stat().st_size:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"no {pattern} in {folder} after two minutes")


def test_a_closed_terminal_stops_a_run_that_no_other_process_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tmp_path)
    run = wait_for(tmp_path, "toy2d/*/metrics.jsonl").parent
    refused = vqtk_main(monkeypatch, "run", "--resume", run)
    refusal = capsys.readouterr().err
    process.send_signal(signal.SIGHUP)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 129, told
    assert "with a checkpoint. Resume: vqtk run --resume" in told
    assert list(run.glob("checkpoints/update_*.safetensors"))
    assert refused == 2
    assert len(refusal.splitlines()) == 1
    assert f'is being run by another process ({{"pid": {process.pid}' in refusal


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_by_which_signal(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("vqtk.training.loop.LOG_EVERY", 1)
    log = RunDirectory.log

    def logged(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if row["update"] == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunDirectory, "log", logged)
    assert vqtk_main(monkeypatch, "run", ROOT / "recipes" / "toy2d.yaml", "--out", tmp_path, "--device", "cpu") == code
    assert list(tmp_path.glob("toy2d/*/checkpoints/update_00000003.safetensors"))


def test_every_signal_that_a_scheduler_sends_stops_a_run() -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    assert [getattr(signal, name) for name in names] == STOPPING


def test_runs_that_begin_in_one_second_have_directories_of_their_own(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "toy2d.yaml")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunDirectory.create(tmp_path, recipe).path, range(16)))
    assert len(set(made)) == 16
    assert all((path / "recipe.yaml").is_file() for path in made)


def test_a_second_signal_ends_at_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        stop = False

    it, before = Run(), signal.getsignal(signal.SIGTERM)
    with stopping_on_signals(it) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert it.stop
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["cuda:x", "cuda:", "cpu:0", "gpu", "cuda:99999", "cuda:-1"])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(VqtkError, match="--device"):
        choose_device(name)
