"""What killed processes leave behind is removed, what living ones write is not; and one process at a time works."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parity import ROOT
from tests.soak import Run, soak
from tests.soaking.kinds import write_kind
from tests.soaking.processes import end_of, start
from tests.tiny import experiment, few, shipped, train
from vqtk.errors import VqtkError
from vqtk.files import locked, replacing, sweep, write_text
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.runs.train import run_experiment


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def temporary_of(pid: int, folder: Path) -> Path:
    """A temporary as a process with this number leaves it."""
    with replacing(folder / "it.png") as own:
        name = own.name
    path = folder / name.replace(f"-{os.getpid()}-", f"-{pid}-")
    path.write_bytes(b"half")
    return path


def test_temporaries_of_processes_that_have_ended_are_swept_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    left, own, others = (temporary_of(pid, below) for pid in (dead(), os.getpid(), os.getppid()))
    host = others.name.split("-")[1]
    elsewhere, aged = (below / left.name.replace(host, f"{i}" * 8) for i in (1, 2))
    reused = below / own.name.replace(".tmp", "x.tmp")
    for path, hours in ((elsewhere, 0.5), (aged, 2), (reused, 0.5)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    (below / ".vqtk-notes.txt").write_text("a user's own")
    sweep(tmp_path)
    assert not any(path.exists() for path in (left, aged, reused))
    assert all(path.exists() for path in (own, others, elsewhere, below / ".vqtk-notes.txt"))


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as raised, replacing(tmp_path / "it.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "it.json")
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_run_directory_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, runs = load_recipe(ROOT / "recipes" / "toy2d.yaml"), tmp_path / "toy2d"
    half = runs / f"{temporary_of(dead(), tmp_path).stem}"
    half.mkdir(parents=True)
    write_text(half / "recipe.yaml", "half")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write_manifest", full)
        with pytest.raises(VqtkError, match=r"cannot be written .No space left on device.*--out"):
            RunDirectory.create(tmp_path, recipe, {"seed": 0})
    assert not list(runs.iterdir())
    made = RunDirectory.create(tmp_path, recipe, {"seed": 0})
    facts = made.manifest()
    assert (facts["seed"], facts["directory"]) == (0, str(made.path.resolve()))


def test_a_run_sweeps_its_directory_and_a_state_without_weights(tmp_path: Path) -> None:
    splits = few(shipped(tmp_path))
    it = experiment(tmp_path, splits, "train.updates=2")
    directory = RunDirectory.create(tmp_path, it.recipe, it.manifest())
    orphan = directory.path / "checkpoints" / "update_00000001.trainer.pt"
    write_text(orphan, "a state")
    left = temporary_of(dead(), directory.path / "checkpoints")
    assert run_experiment(it, directory)
    assert not orphan.exists()
    assert not left.exists()


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    """Its two files cannot be replaced in one step: killed in between, the run's only checkpoint would be lost."""
    it = experiment(tmp_path, few(shipped(tmp_path)), "train.updates=2")
    directory = train(it, tmp_path)
    files = sorted((directory.path / "checkpoints").iterdir())
    before = [path.stat().st_ino for path in files]
    it.trainer.seconds += 1
    directory.save(it.trainer)
    assert [path.stat().st_ino for path in files] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_process_that_the_holder_of_a_lock_has_forked_does_not_hold_it(tmp_path: Path) -> None:
    """The workers that read data outlive a killed run by seconds."""
    reading, writing = os.pipe()
    with locked(tmp_path / "run.lock", what="it"):
        child = os.fork()
        if not child:
            os.read(reading, 1)
            os._exit(0)
        time.sleep(0.05)
    with locked(tmp_path / "run.lock", what="it"):
        os.write(writing, b"x")
    os.waitpid(child, 0)


def test_a_folder_without_room_for_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    refused = pytest.raises(VqtkError, match=r"taken: cannot write to this folder.*--out")
    with refused, locked(tmp_path / "taken" / "run.lock", what="it"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_runs_that_are_killed_end_as_if_they_were_not(tmp_path: Path) -> None:
    """A short pass of `python -m tests.soak`."""
    source = write_kind("text", tmp_path)
    whole, began = Run("text", source, tmp_path / "whole"), time.monotonic()
    assert end_of(start(whole.command(), whole.log)) == 0, whole.log.read_text()
    took = time.monotonic() - began
    found = soak("text", source, tmp_path / "killed", whole=whole.folder, took=took, kills=2, seed="0", execs=0.0)
    assert not found.remarks
    assert found.counts["kills"] == 2
