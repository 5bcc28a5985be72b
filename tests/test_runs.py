"""Runs as things: listed, filtered, labelled, deleted, compared, and repeated with a change."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.refusing import Refusing
from tests.running import TINY, vqtk_main, without_data
from vqtk.errors import CheckpointError, VqtkError
from vqtk.files import RUN, is_locked, locked
from vqtk.runs.catalogue import Filter, ListedRun, delete, label, runs_in, select


def made(folder: Path, name: str = "tiny", *, final: float | None = 0.5, lr: float = 1e-3, seed: int = 0) -> Path:
    """A run directory as vqtk writes it, without training; unfinished if `final` is None."""
    path = folder / name / f"20260101-12000{seed}"
    path.mkdir(parents=True)
    recipe = {"name": name, "seed": seed, "train": {"updates": 4, "optimizer": {"name": "adam", "lr": lr}}}
    (path / "recipe.yaml").write_text(f"name: {name}\nseed: {seed}\ntrain: {{updates: 4, optimizer: {{lr: {lr}}}}}\n")
    facts = {"name": name, "seed": seed, "data": {"sha256": "ab"}, "recipe": recipe, "torch": "2.4", "loss": "mse"}
    (path / "manifest.json").write_text(json.dumps(facts))
    stages = [{"stage": 1, "bits": 2.0, "distortion": final, "entropy_nats": 1.0, "used": 2}]
    done = {"updates": 4, "train_s": 1.0, "peak_memory_mb": 1.0, "test_items": 8, "test": {"final": final}}
    if final is not None:
        (path / "summary.json").write_text(json.dumps({**done, "stages": stages}))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "runs"
    return {
        "low": made(folder, final=0.05, lr=1e-2),
        "high": made(folder, final=0.5, lr=1e-4, seed=1),
        "other": made(folder, "other", final=0.2, seed=2),
        "stopped": made(folder, final=None, seed=3),
    }


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["name=tiny", "lr>1e-3", "final<0.1"], {"low"}),
        (["train.optimizer.lr<=0.0001"], {"high"}),
        (["name!=tiny"], {"other"}),
        (["state=stopped"], {"stopped"}),
        (["final>=0.2"], {"high", "other"}),
        (["name~THE"], {"other"}),
        (["seed=1"], {"high"}),
        (["started>2026-01-01"], {"low", "high", "other", "stopped"}),
    ],
)
def test_filters_keep_the_runs_for_which_all_of_them_hold(
    runs: dict[str, Path], tmp_path: Path, filters: list[str], expected: set[str]
) -> None:
    wanted = [found for text in filters if (found := Filter.of(text))]
    assert {run.path for run in select(runs_in(tmp_path), wanted)} == {runs[name] for name in expected}


def test_runs_are_sorted_by_a_value_and_those_without_it_come_last(runs: dict[str, Path], tmp_path: Path) -> None:
    for sort, order in (("final", ("low", "other", "high")), ("-final", ("high", "other", "low"))):
        expected = [*(runs[name] for name in order), runs["stopped"]]
        assert [run.path for run in select(runs_in(tmp_path), [], sort=sort)] == expected


def test_a_key_or_a_value_that_no_filter_can_use_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    found = runs_in(tmp_path)
    for text, said in (("finl<1", "Did you mean 'final'"), ("final<low", "expected a number after <")):
        wanted = Filter.of(text)
        assert wanted
        with pytest.raises(VqtkError, match=said):
            select(found, [wanted])


@pytest.mark.parametrize("content", ["{", "[]", '{"seed": "no"}', "null", "[" * 100_000])
def test_a_damaged_run_is_listed_as_damaged(
    content: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (runs["low"] / "manifest.json").write_text(content)
    assert vqtk_main(monkeypatch, "runs", tmp_path / "runs", "state=damaged") == 0
    shown = capsys.readouterr().out
    assert "1 of 4 runs" in shown
    assert "manifest.json: the manifest is damaged" in shown


def test_runs_are_listed_in_a_folder_that_cannot_be_written_to_and_without_torch(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for path in before:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    code = (
        "import sys, vqtk.cli; sys.argv = ['vqtk', 'runs', sys.argv[1], 'final<0.1', '--json']\n"
        "try: vqtk.cli.main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [Path(one["path"]) for one in json.loads(done.stdout)] == [runs["low"]]
    for path in before:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_tags_and_notes_are_kept_and_found(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(runs["low"], add=["good", "first"]) == ["good", "first"]
    assert vqtk_main(monkeypatch, "runs", "tag", runs["low"], "good", "--remove") == 0
    assert vqtk_main(monkeypatch, "runs", "note", runs["high"], "a beam\x1b[31m helps") == 0
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "runs", tmp_path / "runs", "note~BEAM") == 0
    shown = capsys.readouterr().out
    assert "1 of 4 runs" in shown
    assert "\x1b" not in shown
    (one,) = select(runs_in(tmp_path), [Filter("tag", "=", "first")])
    assert one.path == runs["low"]
    assert select(runs_in(tmp_path), [Filter("tag", "=", "good")]) == []
    with pytest.raises(VqtkError, match="cannot be a tag"):
        label(runs["low"], add=["a b"])


def test_what_is_no_run_is_not_deleted(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for path in (folder, folder / "tiny", tmp_path / "none"):
        with pytest.raises(CheckpointError, match="not a run directory"):
            delete(path)
    foreign, nested, link = made(tmp_path / "foreign"), made(tmp_path / "nested"), tmp_path / "link"
    (foreign / "manifest.json").write_text('{"name": "a web app"}')
    shutil.copytree(runs["low"], nested / "inner")
    link.symlink_to(runs["low"])
    for path, reason in ((foreign, "vqtk did not write"), (nested, "is another run"), (link, "it is a link")):
        with pytest.raises(CheckpointError, match=reason):
            delete(path)
        assert (path / "recipe.yaml").is_file()


def test_runs_are_deleted_if_confirmed_and_none_that_is_being_trained(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(runs["low"] / RUN, what="it"):
        assert is_locked(runs["low"] / RUN)
        asked = ["runs", "delete", str(runs["high"]), str(runs["low"]), "--yes"]
        Refusing(monkeypatch, capsys).tells(*asked, told=["a process trains this run"])
    assert not is_locked(runs["low"] / RUN)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert vqtk_main(monkeypatch, "runs", "delete", runs["high"]) == 2
    assert all(path.is_dir() for path in runs.values())
    (runs["high"] / "checkpoints").mkdir()
    (runs["high"] / "manifest.json").write_text("{")
    assert vqtk_main(monkeypatch, "runs", "delete", runs["high"], runs["low"], "--yes") == 0
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == [runs["stopped"].name]


def test_the_difference_of_two_runs_is_in_their_recipes_data_versions_and_metrics(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((runs["high"] / "manifest.json").read_text())
    (runs["high"] / "manifest.json").write_text(json.dumps({**told, "torch": "2.5", "data": {"sha256": "cd"}}))
    assert vqtk_main(monkeypatch, "runs", "diff", runs["low"], runs["high"], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == {"seed": ["0", "1"], "train.optimizer.lr": ["0.01", "0.0001"]}
    assert (found["data"], found["versions"]) == ({"sha256": ["ab", "cd"]}, {"torch": ["2.4", "2.5"]})
    assert found["metrics"] == {"final": [0.05, 0.5]}
    assert vqtk_main(monkeypatch, "runs", "diff", runs["low"], runs["high"]) == 0
    assert "final: 0.05 → 0.5 (+0.45)" in capsys.readouterr().out


NEAR = """
from vqtk.metrics import ReconstructionMetric
from vqtk.registry import metrics

@metrics.register("near")
class Near(ReconstructionMetric):
    "How near."
    units = "fraction"
    better = "higher"
    def measure(self, shown, target):
        return shown.new_ones(len(shown))
"""


def test_a_run_is_repeated_with_a_change_its_plugin_and_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("near.py").write_text(NEAR)
    Path("tiny.yaml").write_text(f"plugins: [near.py]\n{TINY}  metrics: [near]\n".replace("updates: 4", "updates: 1"))
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "--device", "cpu") == 0
    (first,) = Path("runs/tiny").iterdir()
    Path("near.py").unlink()
    Path("tiny.yaml").unlink()
    again = ["run", "--like", str(first), "train.optimizer.lr=3e-4", "--device", "cpu", "--out", "more"]
    assert vqtk_main(monkeypatch, *again) == 0
    (second,) = Path("more/tiny").iterdir()
    manifests: list[dict[str, Any]] = [json.loads((run / "manifest.json").read_text()) for run in (first, second)]
    assert manifests[1]["like"]["path"] == str(first.resolve())
    assert manifests[1]["like"]["overrides"] == ["train.optimizer.lr=3e-4"]
    assert manifests[1]["data"] == manifests[0]["data"]
    assert json.loads((second / "summary.json").read_text())["test"]["near"] == 1
    assert manifests[1]["recipe"]["train"]["optimizer"]["lr"] == 3e-4
    capsys.readouterr()
    told = ["'tiny.yaml' is not an override"]
    Refusing(monkeypatch, capsys).tells("run", "--like", str(first), "tiny.yaml", told=told)


def test_a_run_without_an_evaluation_has_no_test_metrics_but_its_updates(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny" / "20260101-000000"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "update_00000012.safetensors").write_bytes(b"")
    recipe = {"train": {"objective": {"final": 1.0}, "schedule": {"final": 0.0}}}
    (folder / "manifest.json").write_text(json.dumps({"recipe": recipe, "name": "tiny"}))
    (folder / "recipe.yaml").write_text("name: tiny\n")
    run = ListedRun(folder)
    assert run.value("final") is None
    assert run.value("updates") == 12


def test_asking_to_delete_without_an_answer_deletes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_answer(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", no_answer)
    monkeypatch.setattr("vqtk.runs.catalogue.require_run", lambda run: None)
    assert vqtk_main(monkeypatch, "runs", "delete", tmp_path) == 2
    assert "nothing was deleted" in capsys.readouterr().err
    assert tmp_path.exists()


def test_a_misspelt_command_or_state_is_answered_with_those_there_are(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refusing = Refusing(monkeypatch, capsys)
    refusing.tells("runs", "dif", told=["dif is neither a command nor a folder. Did you mean vqtk runs diff?"])
    states = "Expected one of done, training, stopped, waiting, failed, damaged."
    refusing.tells("runs", "state=finished", told=["state=finished: there is no such state.", states])
    assert vqtk_main(monkeypatch, "runs", "-h") == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--sort", "--columns", "--json", "note~beam"))
