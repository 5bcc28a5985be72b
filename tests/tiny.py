"""The smallest runs on the digits that ship with vqtk, on a machine without data and without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from vqtk.callbacks import Callback, Progress
from vqtk.datasets._base import Splits, data_root
from vqtk.datasets._split import Held
from vqtk.datasets.mnist import MNIST
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import run_experiment

RECIPE = """\
name: tiny
data: {name: mnist, batch: 8}
model:
  stages: 2
  options: 4
  loss: mse
  refiner:
    backbone: {name: conv, layers: [{width: 4, stride: 2}, {width: 8, stride: 2}]}
    blocks: [{name: conv, width: 8, then: [condition, relu, {group: 4}]}]
    head: {name: conv, layers: [{width: 4, upsample: 2, repeat: 2}]}
train:
  updates: 20
  schedule: {name: linear, final: 1e-4}
  evaluate_every: 10
  evaluate_items: 10
"""


def offline(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Unset VQTK_DATA, make an empty folder the home, and let every connection fail at once."""
    patch.delenv("VQTK_DATA", raising=False)
    patch.setenv("HOME", str(home))
    patch.setattr(socket, "getaddrinfo", _refuse)
    patch.setattr(socket.socket, "connect", _refuse)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise OSError("there is no network in this test")


def shipped(home: Path) -> Splits:
    """The digits that ship with vqtk, as a user without the full set gets them."""
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, home)
        return MNIST().load(data_root())


def few(splits: Splits) -> Splits:
    """All that there is to train on, and 20 items to test on."""
    return Splits(splits.train, Held(splits.test.items[:20]), splits.source, splits.note)


class Watching(Callback):
    """A callback that keeps what it is told, and asks for a stop after an update."""

    def __init__(self, stop_after: int | None = None):
        self.lines: list[str] = []
        self.stop_after = stop_after

    def on_update(self, progress: Progress) -> None:
        self.stop = progress.done == self.stop_after

    def on_message(self, line: str) -> None:
        self.lines.append(line)


def experiment(folder: Path, splits: Splits, *overrides: str, stop_after: int | None = None) -> Experiment:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    callbacks, cpu = [Watching(stop_after)], torch.device("cpu")
    return Experiment.of(load_recipe(path, overrides), data_root=folder, device=cpu, callbacks=callbacks, splits=splits)


def train(it: Experiment, parent: Path) -> RunDirectory:
    """Start a run as `vqtk run` does."""
    directory = RunDirectory.create(parent, it.recipe)
    directory.write_manifest(it.manifest())
    run_experiment(it, directory)
    return directory


def resume(path: Path, splits: Splits) -> tuple[Experiment, str | None]:
    """Go on with a run as `vqtk run --resume` does; return also what was said of damage."""
    directory, recipe = RunDirectory.open(path)
    cpu = torch.device("cpu")
    resumed = Experiment.of(
        recipe, data_root=path, device=cpu, callbacks=[Watching()], splits=splits, recorded=directory.manifest()
    )
    note = directory.restore(resumed.trainer)
    resumed.check_same_data(directory.manifest())
    directory.rewind_metrics(resumed.trainer.done)
    assert run_experiment(resumed, directory)
    return resumed, note


def weights(it: Experiment) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in it.trainer.model.state_dict().items()}


def rows(directory: RunDirectory) -> list[dict[str, Any]]:
    """The metrics, less the times."""
    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "step_ms"} for line in lines]
