"""The commands: what they print, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import vqtk
from tests.running import TINY, vqtk_main, without_data

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a few updates."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.replace("  final_items: 64\n", ""))
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        assert vqtk_main(patch, "run", recipe, "--out", folder / "runs", "--device", "cpu") == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


def test_help_comes_without_torch() -> None:
    code = "import sys; sys.argv = ['vqtk', '--help']; import vqtk.cli\ntry: vqtk.cli.main()\nexcept SystemExit: pass\n"
    told = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert "Train the model that a recipe describes" in told.stdout
    assert told.stdout.rstrip().endswith("False")


def test_a_run_directory_holds_all_that_it_promises(trained: Path) -> None:
    assert {"recipe.yaml", "manifest.json", "metrics.jsonl", "summary.json", "checkpoints", "images"} <= {
        path.name for path in trained.iterdir()
    }
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["data"]["train_items"] == 4500
    assert "ship with vqtk" in manifest["data"]["note"]
    assert {"torch", "threads", "seed", "cores", "platform"} <= manifest.keys()
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["test_items"] == 1000
    assert [row["bits"] for row in summary["stages"]] == [2, 4, 6]
    kinds = {path.name.split("_")[0] for path in (trained / "images").iterdir()}
    assert {"samples", "reconstructions", "stages"} <= kinds


def test_a_budget_becomes_a_recorded_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "--budget", "3s", "--device", "cpu") == 0
    (run,) = Path("runs/tiny").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert manifest["budget"] == "3s"
    assert summary["updates"] == manifest["updates_within_budget"]


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["sample", "-n", "4", "--columns", "2"], (62, 62)),
        (["sample", "-n", "4", "--columns", "2", "--stages", "1"], (62, 62)),
        (["reconstruct", "-n", "4", "--columns", "4"], (122, 62)),
        (["stages", "-n", "3"], (92, 122)),
        (["proposals", "--stage", "2", "--columns", "4", "--item", "3"], (122, 32)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_looking_writes_a_picture(
    arguments: list[str], size: tuple[int, int], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *options = arguments
    for name, labels in (("out.png", []), ("bare.png", ["--bare"])):
        assert vqtk_main(monkeypatch, command, trained, *options, *labels, "-o", name, "--show", "--device", "cpu") == 0
    with Image.open("out.png") as labelled, Image.open("bare.png") as picture:
        assert labelled.width > size[0]
        scale = picture.width // size[0]
        assert (picture.width, picture.height) == (scale * size[0], scale * size[1])


def test_looking_at_a_weights_file_gives_the_same_picture(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights,) = (trained / "checkpoints").glob("*.safetensors")
    assert vqtk_main(monkeypatch, "sample", trained, "-o", "run.png") == 0
    assert vqtk_main(monkeypatch, "sample", weights, "-o", "file.png") == 0
    assert Path("run.png").read_bytes() == Path("file.png").read_bytes()
    assert vqtk_main(monkeypatch, "sample", weights, "--seed", "1", "-o", "other.png") == 0
    assert Path("run.png").read_bytes() != Path("other.png").read_bytes()


def test_json_is_json(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "recipes" / "mnist.yaml"
    for arguments in (
        ["eval", trained, "--items", "8"],
        ["list"],
        ["list", "block"],
        ["show", trained / "recipe.yaml"],
        ["show", recipe, "train.updates=7"],
        ["validate", trained / "recipe.yaml"],
        ["sample", trained],
        ["proposals", trained],
        ["bench", trained / "recipe.yaml", "--rounds", "1"],
    ):
        capsys.readouterr()
        assert vqtk_main(monkeypatch, *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out)


def test_show_says_where_each_value_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert vqtk_main(monkeypatch, "show", "recipes/mnist_gaussian.yaml", "train.updates=7") == 0
    shown = capsys.readouterr().out
    for line in shown.splitlines():
        if line.startswith("  loss:"):
            assert "recipes/mnist_gaussian.yaml:4" in line
        if line.startswith("  stages:"):
            assert "recipes/mnist.yaml:7" in line
        if line.startswith("  updates:"):
            assert "override 'train.updates=7'" in line
    assert "625,185" in shown
    assert "FLOPs" in shown


def test_eval_ends_at_the_runs_own_figures(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "eval", trained, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    summary = json.loads((trained / "summary.json").read_text())
    assert told["stages"][-1]["distortion"] == pytest.approx(summary["test"]["final"], rel=1e-6)


def test_python_loads_a_run_and_builds_a_recipe(trained: Path) -> None:
    model = vqtk.load(trained)
    assert model.decode(model.random_codes(2)).shape == (2, 1, 28, 28)
    assert vqtk.build(ROOT / "recipes" / "mnist.yaml", "model.stages=2").stages == 2


def test_a_resumed_run_keeps_its_thread_count(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    manifest = json.loads((trained / "manifest.json").read_text())
    try:
        torch.set_num_threads(manifest["threads"] + 1)
        assert vqtk_main(monkeypatch, "run", "--resume", trained) == 0
        assert torch.get_num_threads() == manifest["threads"]
    finally:
        torch.set_num_threads(manifest["threads"])


def test_python_refuses_items_and_codes_of_the_wrong_kind(trained: Path) -> None:
    import torch

    from vqtk.errors import VqtkError

    model = vqtk.load(trained)
    with pytest.raises(VqtkError, match=r"expected \(n, 1, 28, 28\)"):
        model.encode(torch.zeros(1, 28, 28))
    with pytest.raises(VqtkError, match="normalise"):
        model.encode(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(VqtkError, match="expected integers from 0 to 3"):
        model.decode(torch.zeros(1, 3))


def test_bernoulli_refuses_data_beyond_0_to_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "show", ROOT / "recipes" / "mnist.yaml", "model.loss=bernoulli") == 2
    assert "bernoulli scores values from 0 to 1" in capsys.readouterr().err
