"""`vqtk run --from`: a new run that begins with the weights of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.refusing import Refusing
from tests.running import TINY, vqtk_main, without_data
from vqtk.files import file_sha256
from vqtk.io.run_files import checkpoints
from vqtk.io.weights import read_weights, weights_of

STILL = ["train.optimizer.lr=1e-30", "train.updates=1", "train.evaluate_items=4", "train.picture_items=2"]
"""Training that leaves the weights as they are."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Path:
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "train.updates=2", "--out", "first", "--device", "cpu") == 0
    (made,) = Path("first/tiny").iterdir()
    return made


def test_a_run_begins_with_the_weights_of_another_and_records_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(run)
    for index, given in enumerate((run, weights)):
        out = Path(f"out{index}")
        arguments = ["--from", given, "tiny.yaml", "seed=3", *STILL, "--out", out, "--device", "cpu"]
        assert vqtk_main(monkeypatch, "run", *arguments) == 0
        (made,) = (out / "tiny").iterdir()
        (before, _), (after, _) = read_weights(weights), read_weights(checkpoints(made)[-1])
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
        begun = json.loads((made / "manifest.json").read_text())["from"]
        assert begun == {"path": str(weights.resolve()), "sha256": file_sha256(weights), "update": 2}


def test_weights_that_do_not_fit_are_named_all_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = Refusing(monkeypatch, capsys)
    differing = ["model.options=8", "model.refiner.backbone.layers.0.width=5"]
    _, err = refusing.run("run", "--from", str(run), "tiny.yaml", *differing, "--out", "out")
    assert err.count("in the file and") > 1
    assert "these are weights of another recipe: 'bias' is (4, 1, 28, 28) in the file and (8, 1, 28, 28)" in err
    assert not Path("out").exists()
    refusing.tells("run", "--from", "none", "tiny.yaml", told=["none: no such run or weights file"])
    refusing.tells("run", "--from", str(run), "--resume", str(run), told=["so '--from first", "cannot be used"])


def test_a_finished_run_that_is_to_go_on_for_longer_is_pointed_there(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("updates: 2", "updates: 4"))
    told = ["train.updates was 2, and is now 4", f"vqtk run --from {run} {recipe}."]
    Refusing(monkeypatch, capsys).tells("run", "--resume", str(run), told=told)
    assert vqtk_main(monkeypatch, "run", "--from", run, recipe, "--out", "out", "--device", "cpu") == 0


TEXT = """
name: words
data: {name: text, path: words.txt, length: 16, vocabulary: 12, batch: 2}
model:
  stages: 2
  options: 4
  loss: categorical
  refiner:
    backbone: {name: conv, layers: [{width: 8, stride: 2}]}
    head: {name: conv, layers: [{width: 8, upsample: 2}]}
train: {updates: 1, evaluate_items: 4, picture_items: 2}
"""


def test_text_of_another_vocabulary_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.yaml").write_text(TEXT)
    Path("words.txt").write_text("abcdefghijk " * 40)
    assert vqtk_main(monkeypatch, "run", "words.yaml", "--out", "first", "--device", "cpu") == 0
    (run,) = Path("first/words").iterdir()
    Path("words.txt").write_text("zyxwvutsrqp " * 40)
    told = ["these weights were trained on text with another vocabulary than that in"]
    Refusing(monkeypatch, capsys).tells("run", "--from", str(run), "words.yaml", told=told)
