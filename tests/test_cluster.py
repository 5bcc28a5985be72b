"""Studies on a cluster: the executor of Slurm, with a stand-in for Slurm itself, locks among machines, and watching."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.running import vqtk_main
from vqtk.errors import LockedError, RecipeError, VqtkError
from vqtk.files import DEAD_S, is_locked, locked
from vqtk.study.runner import check_executor
from vqtk.study.slurm import Slurm, SlurmSettings
from vqtk.study.state import LOCKED, Event, Settings, State, read_state, record_failure, write_state
from vqtk.study.study import load_study

RECIPES = Path(__file__).parent.parent / "recipes"
STUDY = "name: tiny\nbase: {recipes}/toy2d.yaml\naxes: {{train.optimizer.lr: [0.01, 0.02]}}\nseeds: [0]\n{more}"
SCRIPTS = {
    # Runs the tasks of an array in the background, and again while they are requeued.
    "sbatch": """
        n=$(ls "$Q" | grep -c 'script$'); cp "$1" "$Q/$n.script"
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
        name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
        for i in $(seq 0 "$last"); do
            echo "${n}_$i RUNNING $name" > "$Q/${n}_$i.job"
            (export SLURM_JOB_ID=9$i SLURM_ARRAY_JOB_ID=$n SLURM_ARRAY_TASK_ID=$i; sh "$1"
             while rm "$Q/${n}_$i.again"; do sh "$1"; done; rm "$Q/${n}_$i.job") >> "$Q/out" 2>&1 &
        done
        echo "Submitted batch job $n" """,
    "srun": """
        while :; do case "$1" in --output) shift 2;; -*) shift;; *) break;; esac; done
        echo $$ > "$Q/${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.pid"; exec "$@" """,
    "squeue": """
        case "$*" in *--jobs=*) cut -d' ' -f2 "$Q/${3#--jobs=}.job";; *) cat "$Q"/*.job 2> /dev/null; true;; esac""",
    "scontrol": 'touch "$Q/$2.again"',
    "scancel": 'echo "$*" >> "$Q/cancelled"',
    # What trains: run a at once; b once it was warned before; c takes its job with it.
    "python": """
        STATE='{"state": "%s", "attempts": 1}'
        case "$*" in
            *submitit*) exec PYTHON -c "import runpy, sys; sys.argv = ['', '$4']; sys.executable = '$0'; \
runpy.run_module('submitit.core._submit', run_name='__main__')";;
            */a/seed0*) printf "$STATE" done > "$3/cell.json";;
            */b/seed0*) grep -q stopped "$3/cell.json" && printf "$STATE" done > "$3/cell.json" && exit
                        trap 'printf "$STATE" stopped > "$3/cell.json"; exit' TERM
                        printf "$STATE" running > "$3/cell.json"; while :; do sleep 0.05; done;;
            */c/seed0*) printf "$STATE" running > "$3/cell.json"; kill -9 $PPID;;
        esac""",
}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stand-in for Slurm that is on the path."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    tools, queue = tmp_path / "bin", tmp_path / "queue"
    tools.mkdir()
    queue.mkdir()
    for name, script in SCRIPTS.items():
        (tools / name).write_text("#!/bin/sh\n" + script.replace("PYTHON", sys.executable) + "\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{RECIPES.parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("Q", str(queue))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    monkeypatch.setattr("vqtk.study.slurm.STATE_POLL_S", 0.05)
    monkeypatch.setattr("vqtk.study.slurm.QUEUE_POLL_S", 0.1)
    return queue


def waiting(study: Path, *names: str) -> list[Path]:
    runs = [study / name / "seed0" for name in names]
    for run in runs:
        write_state(run, State())
    return runs


def followed(executor: Slurm, runs: list[Path], at: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """What happens to each run; `at` is called for what it names."""
    for run in runs:
        executor.submit(run)
    seen = []
    for event in executor.events():
        if event:
            record_failure(event)
            seen.append((event.run.parent.name, event.what))
            (at or {}).get(f"{seen[-1][0]} {event.what}", lambda: None)()
    return seen


def test_jobs_of_several_runs_are_requeued_when_they_are_warned_and_one_that_is_lost_fails(
    queue: Path, tmp_path: Path
) -> None:
    study = tmp_path / "studies" / "tiny"
    runs = waiting(study, "a", "b", "c")
    executor = Slurm(Settings("cpu"), SlurmSettings(per_job=2, time="2h", mem=1.5), study, workers=2)
    warn = lambda: os.kill(int((queue / "0_0.pid").read_text()), signal.SIGUSR1)  # noqa: E731
    seen = followed(executor, runs, {"b begun": warn})
    assert [what for name, what in seen if name == "b"] == ["begun", "ended"]
    assert [read_state(run).state for run in runs] == ["done", "done", "failed"]
    assert "its Slurm job 0_1 ended" in str(read_state(runs[2]).error)
    assert "The job 0_0 is requeued." in (queue / "out").read_text()
    script = (queue / "0.script").read_text()
    for line in ("array=0-1%1", "time=120", "mem=1536M", "cpus-per-task=2", "signal=USR1@120", "requeue", "nodes=1"):
        assert f"#SBATCH --{line}\n" in script
    assert " --cpus-per-task=2 " in script


def test_a_study_that_is_started_again_follows_its_jobs_and_cancels_those_that_wait(
    queue: Path, tmp_path: Path
) -> None:
    (run,) = waiting(tmp_path / "tiny", "a")
    (tmp_path / "tiny" / "slurm").mkdir()
    (tmp_path / "tiny" / "slurm" / "jobs.json").write_text('{"a/seed0": "7_0", "b/seed0": "6_0"}')
    (queue / "7_0.job").write_text("7_0 PENDING vqtk-tiny\n")
    (queue / "8.job").write_text("8 PENDING another\n")
    executor = Slurm(Settings("cpu"), SlurmSettings(), tmp_path / "tiny")
    executor.submit(run)
    events = executor.events()
    assert next(events) is None
    write_state(run, State("running"))
    assert next(events) == Event(run, "begun", "slurm 7_0")
    executor.stop()
    assert (queue / "cancelled").read_text() == "--state=PENDING 7_0\n"
    write_state(run, State("stopped"))
    (queue / "7_0.job").unlink()
    assert [event for event in events if event] == [Event(run, "ended", "slurm 7_0", None)]
    assert not list(queue.glob("*.script"))


def test_settings_of_executors_are_checked_and_the_command_line_overrides_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(recipes=RECIPES, more="executors: {slurm: {time: 2h, sbatch: {exclude: n3}}}"))
    found = load_study(path, executors=["slurm.partition=gpu", "slurm.time=1d", "ray.per_gpu=4"]).executors
    assert found.slurm == SlurmSettings(time="1d", partition="gpu", sbatch={"exclude": "n3"})
    assert (found.ray.per_gpu, found.ray.address) == (4, None)
    for wrong, told in {
        "slrum: {}": "Did you mean 'slurm'",
        "slurm: {tim: 4h}": "Did you mean 'time'",
        "slurm: {time: 90}": "expected a duration such as 30m, 4h or 2d, got 90",
        "ray: {per_gpu: 0}": "expected a whole number ≥ 1",
    }.items():
        path.write_text(STUDY.format(recipes=RECIPES, more=f"executors: {{{wrong}}}"))
        with pytest.raises(RecipeError, match=told):
            load_study(path)
    with pytest.raises(VqtkError, match="Did you mean 'slurm'"):
        check_executor("slrum")
    with pytest.raises(VqtkError, match="--set time=1h: the executor local has no settings"):
        check_executor("local", ["time=1h"])


@pytest.mark.parametrize(
    ("missing", "told"), [("submitit", r"pip install 'vqtk\[slurm\]'"), ("sbatch", "no sbatch on this machine")]
)
def test_what_slurm_lacks_is_named(missing: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None if missing == "submitit" else json)  # Any module stands for it.
    with pytest.raises(VqtkError, match=told):
        Slurm(Settings(), SlurmSettings(), tmp_path)


# ── locks ────────────────────────────────────────────────────────────────────────────────────────


def left_by(lock: Path, host: str, silent_s: float) -> None:
    lock.write_text(json.dumps({"pid": 1, "host": host, "beats": "1"}))
    os.utime(lock, (time.time() - silent_s,) * 2)


def test_the_lock_of_a_lost_machine_is_taken_over_once_it_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.files._SETTLED_S", 0)
    lock = tmp_path / "run.lock"
    left_by(lock, "gone", DEAD_S - 30)
    assert is_locked(lock)
    with pytest.raises(LockedError, match=r'"host": "gone".*free after 90 s'), locked(lock, what="it"):
        pass
    with lock.open() as held:  # The file server keeps the lock of a machine that it has not given up.
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_locked(lock)
        left_by(lock, "gone", DEAD_S + 30)
        assert not is_locked(lock)
        with locked(lock, what="it"):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
            assert is_locked(lock)
    assert not is_locked(lock)
    assert lock.read_text() == ""


def test_a_process_whose_lock_was_taken_over_ends(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    script = f"""if True:
        import time, vqtk.files
        vqtk.files.BEAT_S = 0.05
        with vqtk.files.locked(vqtk.files.Path({str(lock)!r}), what="it"):
            print("held", flush=True)
            time.sleep(60)
        """
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    left_by(lock, "another", 0)
    _, told = holder.communicate(timeout=60)
    assert holder.returncode == 1
    assert '"host": "another"' in told
    assert "another" in lock.read_text()


def test_a_run_that_another_process_trains_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqtk.study.executors import Local

    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\nexit {LOCKED}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    (run,) = waiting(tmp_path, "a")
    executor = Local(Settings("cpu"), workers=1)
    executor.submit(run)
    assert [event.error for event in executor.events() if event and event.what == "ended"] == [None]


# ── watching ─────────────────────────────────────────────────────────────────────────────────────


def test_a_study_is_watched_by_its_folder_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqtk.cli.progress.LINES_EVERY_S", 0)
    monkeypatch.setattr("vqtk.cli.progress._LOOK_S", 0)
    runs = waiting(tmp_path, "a", "b")
    cells = [{"variant": run.parent.name, "path": f"{run.parent.name}/seed0", "seed": 0} for run in runs]
    cells[1] |= {"updates": 100, "examples": 8}
    (tmp_path / "study.json").write_text(json.dumps({"cells": cells, "metrics": [{"name": "final"}]}))
    (runs[1] / "metrics.jsonl").write_text('{"update": 50, "final": 0.25, "step_ms": 10}\n')
    write_state(runs[0], State("done"))
    write_state(runs[1], State("running", host="n1"))
    calls = []

    def look(path: Path) -> bool:
        """The study's lock is free; the run's is held at first, and then its machine is lost, and another ends it."""
        calls.append(path)
        if path.name == "run.lock" and len(calls) > 4:
            write_state(runs[1], State("done", host="n2"))
        return path.name == "run.lock" and len(calls) < 3

    monkeypatch.setattr("vqtk.cli.progress.is_locked", look)
    assert vqtk_main(monkeypatch, "ablate", tmp_path, "--watch") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "done    a seed 0    (1 running, 1 done)"
    assert told[1] == "started b seed 0  (1 running, 1 done)"
    assert told[2] == "        b seed 0  50/100  final 0.25  0 s left  800 examples/s on n1"
    assert told[3] == "        b seed 0  50/100  final 0.25  no sign of life on n1"
    assert told[-1] == "done    b seed 0  final 0.25  (2 done)"
    assert vqtk_main(monkeypatch, "ablate", tmp_path / "a", "--watch") == 2
    assert "no study has been started here" in capsys.readouterr().err
    assert vqtk_main(monkeypatch, "ablate", tmp_path, "--watch", "--retry") == 2
