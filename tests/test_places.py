"""Runs in odd places: moved, linked, with odd names, without a home, where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.refusing import Refusing
from tests.running import vqtk_main, without_data
from tests.test_run_data import RECIPE, Vqtk, project, vqtk  # noqa: F401

TOY = Path(__file__).parent.parent / "recipes" / "toy2d.yaml"
SMALL = ["train.updates=1", "train.evaluate_items=4", "train.picture_items=2", "data.items=50", "data.test=20"]


@pytest.fixture
def run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A copy of a run, with its data."""
    shutil.copytree(project, tmp_path / "copy")
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "copy" / "here" / "run"


def test_a_run_that_was_moved_or_is_linked_is_read_and_resumed(run: Path, vqtk: Vqtk) -> None:  # noqa: F811
    moved = run.rename(run.parent / "Läufe mit Leerzeichen 🎲")
    Path("link").symlink_to(moved, target_is_directory=True)
    assert "the whole split" in vqtk("eval", moved)
    vqtk("sample", moved, "-n", "2")
    assert "Done: " in vqtk("run", "--resume", "link")
    vqtk("stages", "link", "-n", "2")
    assert json.loads(vqtk("compare", "link", "--json", device=False))["variants"][0]["n"] == 1


def test_where_nothing_can_be_written_results_are_printed_all_the_same(
    run: Path,
    vqtk: Vqtk,  # noqa: F811
    tmp_path: Path,
) -> None:
    for name in ("eval.json", "report.html", "prior.safetensors", "references.json"):
        (run / name).unlink(missing_ok=True)
        (run / name / "taken").mkdir(parents=True)
    shutil.rmtree(run / "images")
    (run / "images").write_text("not a folder")
    told = vqtk("eval", run, "--references")
    assert told.index("the whole split") < told.index("warning: ")
    assert "references.json: the references cannot be written" in told
    assert "the results cannot be written there" in told
    assert "the prior cannot be written" in vqtk(
        "sample", run, "--prior", "markov", "--prior-items", "4", "-o", "out.png"
    )
    told = vqtk("reconstruct", run, "-n", "2", "--json", code=2)
    assert told.index('"codes"') < told.index("error: ")
    assert "Choose another path with --out" in told
    assert "Choose another path with --out" in vqtk("report", run, code=2, device=False)
    assert "page.html" in vqtk("report", run, "-o", tmp_path / "page.html", device=False)


def test_a_study_that_cannot_be_written_to_is_compared_all_the_same(run: Path, vqtk: Vqtk) -> None:  # noqa: F811
    study = run.parent / "study"
    (study / "comparison.json" / "taken").mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"cells": [{"variant": "a", "path": "../run"}]}))
    told = vqtk("compare", study, device=False)
    assert told.index("costs") < told.index("warning: ")
    assert "the comparison cannot be written" in told


@pytest.mark.parametrize("command", [["run", str(TOY), *SMALL, "--out", "out"], ["show", str(TOY)]])
def test_drawn_data_need_neither_a_data_root_nor_a_home(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTK_DATA", str(tmp_path / "absent"))
    assert vqtk_main(monkeypatch, *command) == 0
    monkeypatch.delenv("VQTK_DATA")
    monkeypatch.setattr(Path, "home", _no_home)
    assert vqtk_main(monkeypatch, *command) == 0


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_data_below_an_absent_root_or_home_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pics.yaml").write_text(RECIPE)
    refusing = Refusing(monkeypatch, capsys)
    monkeypatch.setenv("VQTK_DATA", str(tmp_path / "absent"))
    refusing.tells("run", "pics.yaml", told=[f"VQTK_DATA is {tmp_path / 'absent'}, which is not a folder."])
    monkeypatch.delenv("VQTK_DATA")
    monkeypatch.setattr(Path, "home", _no_home)
    refusing.tells("run", "pics.yaml", told=["this user has no home directory", "Set HOME"])


WITHOUT_UNIX = """
import runpy, sys
sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios", "curses")))
import vqtk.study.executors, vqtk.study.worker, vqtk.runs.train, vqtk.files
sys.argv = ["vqtk", "sample", "mnist", "--device", "cuda:0"]
runpy.run_module("vqtk", run_name="__main__")
"""


def test_without_unix_modules_the_package_is_a_command_that_tells_of_an_absent_gpu() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | {"CUDA_VISIBLE_DEVICES": ""}
    told = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], capture_output=True, text=True, env=environment)
    assert told.returncode == 2
    assert "error: --device cuda:0: torch finds no such device here. Present: " in told.stderr
    assert "Traceback" not in told.stderr
