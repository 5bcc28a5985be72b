"""Items taken by index: held in memory, or read by worker processes in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import Watching
from vqtk.datasets._split import Files, Held, HeldBits, Windows, batches_of
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import run_experiment

RECIPE = """\
name: faces
data: {name: image_folder, path: FOLDER, size: 8, batch: 4}
model:
  stages: 2
  options: 4
  loss: mse
  refiner:
    backbone: {name: conv, layers: [{width: 4, stride: 2}]}
    head: {name: conv, layers: [{width: 4, upsample: 2}]}
train: {updates: 5, evaluate_items: 4}
"""


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process takes seconds to start."""
    monkeypatch.setattr(Files, "workers", 1)


def folder_of_pictures(folder: Path, count: int) -> Path:
    draws = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    folder.mkdir()
    for index, pixels in enumerate(draws):
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def trained(folder: Path, out: Path, stop_after: int | None = None) -> tuple[Experiment, RunDirectory]:
    recipe_file = folder.parent / "faces.yaml"
    recipe_file.write_text(RECIPE.replace("FOLDER", str(folder)))
    watcher = Watching(stop_after)
    it = Experiment.of(load_recipe(recipe_file), data_root=Path(), device=torch.device("cpu"), callbacks=[watcher])
    directory = RunDirectory.create(out, it.recipe)
    directory.write_manifest(it.manifest())
    run_experiment(it, directory)
    return it, directory


def test_training_by_workers_gives_the_weights_of_training_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of_pictures(tmp_path / "pictures", 40)
    held, _ = trained(folder, tmp_path / "held")
    monkeypatch.setattr("vqtk.datasets._images.HELD_AT_MOST", 0)
    read, _ = trained(folder, tmp_path / "read")
    assert isinstance(held.splits.train, Held)
    assert isinstance(read.splits.train, Files)
    weights = read.trainer.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in held.trainer.model.state_dict().items())


def test_workers_report_what_they_skip_and_the_manifest_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of_pictures(tmp_path / "pictures", 40)
    monkeypatch.setattr("vqtk.datasets._images.HELD_AT_MOST", 0)
    whole = trained(folder, tmp_path / "whole")[0].splits.train
    assert isinstance(whole, Files)
    damaged = next(iter(whole.paths))
    damaged.write_bytes(b"not a picture")
    it, directory = trained(folder, tmp_path / "damaged")
    assert directory.manifest()["data"]["skipped"]["count"] == 1
    assert directory.manifest()["data"]["skipped"]["first"] == [str(damaged)]
    assert any(str(damaged) in line for line in it.callbacks[0].lines)  # type: ignore[attr-defined]


def test_batches_come_in_order_from_any_split() -> None:
    values = torch.arange(24, dtype=torch.uint8).view(12, 2)
    packed = np.packbits(np.eye(12, dtype=np.uint8), axis=1)
    indices = [torch.tensor([3, 0]), torch.tensor([11])]
    assert [part.tolist() for part in batches_of(Held(values), indices)] == [[[6, 7], [0, 1]], [[22, 23]]]
    assert [part.argmax(1).tolist() for part in batches_of(HeldBits(packed, (12,)), indices)] == [[3, 0], [11]]
    windows = Windows(torch.arange(10), length=4, stride=3)
    assert len(windows) == 3
    assert windows[torch.tensor([2, 0])].tolist() == [[6, 7, 8, 9], [0, 1, 2, 3]]
