"""A run's data are the run's: found from anywhere, told from others, and results on others kept apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.running import vqtk_main, without_data
from vqtk.io.weights import weights_of

RECIPE = """
name: pics
data: {name: image_folder, path: pics, size: 8, colours: grey, test: 0.3, batch: 4}
model:
  stages: 2
  options: 4
  loss: mse
  refiner:
    backbone: {name: conv, layers: [{width: 4, stride: 2}]}
    head: {name: conv, layers: [{width: 4, upsample: 2}]}
train: {updates: 2, evaluate_items: 4, picture_items: 4}
"""
Vqtk = Callable[..., str]


def write_pictures(folder: Path, *, seed: int, classes: int = 0) -> None:
    random = np.random.default_rng(seed)
    for index in range(30):
        place = folder / (f"class{index % classes}" if classes else "") / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with pictures under one relative path; a run was trained in the first."""
    project = tmp_path_factory.mktemp("project")
    write_pictures(project / "here" / "pics", seed=0)
    write_pictures(project / "there" / "pics", seed=1)
    (project / "here" / "pics.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, project)
        patch.chdir(project / "here")
        assert vqtk_main(patch, "run", "pics.yaml", "--device", "cpu") == 0
    (made,) = (project / "here" / "runs" / "pics").iterdir()
    made.rename(project / "here" / "run")
    return project


@pytest.fixture
def place(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both folders; the working directory is the second."""
    shutil.copytree(project, tmp_path / "copy")
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path / "copy" / "there")
    return tmp_path / "copy"


@pytest.fixture
def vqtk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vqtk:
    def call(*arguments: str | Path, code: int = 0, device: bool = True) -> str:
        capsys.readouterr()
        found = vqtk_main(monkeypatch, *arguments, *(["--device", "cpu"] if device else []))
        out, err = capsys.readouterr()
        assert found == code, out + err
        assert "Traceback" not in err
        return out + err

    return call


COMMANDS = {
    "eval": ["eval", "--json"],
    "reconstruct": ["reconstruct", "-n", "4", "--json"],
    "stages": ["stages", "-n", "4", "--json"],
    "tree": ["tree", "--options", "2", "--used", "6", "--json"],
    "complete": ["complete", "mask", "hide=left", "-n", "2", "--json"],
    "prior": ["sample", "-n", "4", "--prior", "markov", "--prior-items", "10", "--json"],
}


@pytest.mark.parametrize(
    ("command", "root"), [*((command, "none") for command in COMMANDS), ("eval", "VQTK_DATA"), ("eval", "--data-dir")]
)
def test_a_runs_data_are_found_from_anywhere(
    command: str, root: str, place: Path, vqtk: Vqtk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *more = COMMANDS[command]
    known = [name, "../here/run", *more]
    monkeypatch.chdir(place / "here")
    expected = json.loads(vqtk(name, "run", *more).partition("\nEncoding")[0].partition("\nwarning")[0])
    (place / "here" / "run" / "prior.safetensors").unlink(missing_ok=True)
    monkeypatch.chdir(place / "there")
    if root == "VQTK_DATA":
        monkeypatch.setenv("VQTK_DATA", str(place / "there"))
    told = vqtk(*known, *(["--data-dir", place / "there"] if root == "--data-dir" else []))
    found = json.loads(told[: told.rindex("}") + 1])
    if root == "--data-dir":
        assert "Reading the run's own data from" in told
    for values in (expected, found):
        for changing in ("path", "rates", "environment", "prior"):
            values.pop(changing, None)
        values.get("data", {}).pop("source", None)
    assert found == expected


def test_a_resumed_run_trains_on_its_own_data(place: Path, vqtk: Vqtk) -> None:
    before = (place / "here" / "run" / "manifest.json").read_text()
    told = vqtk("run", "--resume", "../here/run")
    assert "Done: " in told
    assert (place / "here" / "run" / "manifest.json").read_text() == before


@pytest.mark.parametrize("moved", ["run", "project", "absolute"])
def test_data_that_moved_with_the_run_are_found(moved: str, place: Path, vqtk: Vqtk, project: Path) -> None:
    run = place / "here" / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["path"] == str(project / "here" / "pics")
    gone = project.parent / "gone"
    data = {**manifest["data"], "path": str(gone / "here" / "pics"), "root": str(gone), "source": "pics"}
    manifest |= {"data": data, "directory": str(gone / "here" / "run")}
    if moved == "run":
        run = run.rename(place / "there" / "elsewhere")
        manifest["data"]["path"] = str(place / "here" / "pics")
    if moved == "absolute":
        (place / "here" / "pics").rename(place / "here" / "others")
        manifest["data"]["path"] = str(gone / "here" / "others")
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "test examples, the whole split" in vqtk("eval", run)


def test_other_data_are_refused_and_nothing_is_overwritten(place: Path, vqtk: Vqtk) -> None:
    run = place / "here" / "run"
    vqtk("eval", run)
    before = (run / "eval.json").read_bytes()
    write_pictures(place / "here" / "pics", seed=2)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"]["path"] = str(place / "here" / "pics")
    (run / "manifest.json").write_text(json.dumps(manifest))
    for command in (["eval", run], ["reconstruct", run], ["run", "--resume", run]):
        told = vqtk(*command, code=2)
        assert told.count("\n") == 1
        assert "are not found" in told
        assert f"{place / 'here' / 'pics'} has other data" in told
        assert "--data path=FOLDER" in told
    assert (run / "eval.json").read_bytes() == before


def test_what_is_found_on_other_data_is_kept_apart(place: Path, vqtk: Vqtk) -> None:
    run = place / "here" / "run"
    vqtk("eval", run)
    own = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    told = vqtk("eval", run, "--data", "path=pics")
    (kept,) = (run / "other_data").iterdir()
    assert f"Written: {kept / 'eval.json'}" in told
    found = json.loads((kept / "eval.json").read_text())
    assert found["data"]["sha256"] != json.loads((run / "eval.json").read_text())["data"]["sha256"]
    assert str(kept / "images" / "reconstructions.png") in vqtk("reconstruct", run, "-n", "4", "--data", "path=pics")
    vqtk("sample", run, "--prior", "markov", "--prior-items", "5", "--data", "path=pics")
    assert (kept / "prior.safetensors").is_file()
    assert {path: path.read_bytes() for path in own} == own
    weights = weights_of(run)
    assert f"{weights.stem}_{kept.name}_stages.png" in vqtk("stages", weights, "-n", "2", "--data", "path=pics")


def test_other_data_that_do_not_suit_the_model_are_refused(place: Path, vqtk: Vqtk) -> None:
    run = place / "here" / "run"
    told = vqtk("eval", run, "--data", "name=mnist", code=2)
    assert (
        "these data do not fit the model: they are image of shape (1, 28, 28), and it takes image of shape (1, 8, 8)"
        in told
    )
    assert "data.colour" in vqtk("eval", run, "--data", "colour=grey", code=2)
    assert "expected dotted.path=value" in vqtk("eval", run, "--data", "pics", code=2)
    assert not (run / "other_data").exists()


def test_a_run_whose_manifest_is_gone_says_so(place: Path, vqtk: Vqtk) -> None:
    run = place / "here" / "run"
    (run / "manifest.json").unlink()
    assert "no manifest.json that says which data the run was trained on" in vqtk("eval", run, code=2)
    vqtk("sample", run)


def test_a_weights_file_says_if_the_data_at_hand_are_not_those_that_it_was_trained_on(
    place: Path, vqtk: Vqtk, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqtk("export", "../here/run", "-o", "../model.safetensors", device=False)
    assert "warning: these weights were trained on other data (SHA-256 " in vqtk("eval", "../model.safetensors")
    monkeypatch.chdir("../here")
    assert "warning" not in vqtk("eval", "../model.safetensors")
