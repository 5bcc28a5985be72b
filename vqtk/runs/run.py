"""Runs, prepared and carried out: begun from a recipe, from weights or like another run, or resumed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vqtk.callbacks import Callback, PlainDisplay
from vqtk.datasets import Splits, Units, data_root, given_splits
from vqtk.datasets.memory import KEPT, keep_examples
from vqtk.errors import CheckpointError
from vqtk.files import RUN, file_sha256, locked
from vqtk.io.weights import copy_into, read_weights, weights_of
from vqtk.process import stopping_on_signals
from vqtk.recipe.build import build_dataset, unchanged
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.runs.budget import seconds, settings_within
from vqtk.runs.data import data_like, own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment, go_on, run_experiment
from vqtk.training.execution import choose_device

Prepared = tuple[Experiment, RunDirectory]


@dataclass(frozen=True)
class Given:
    """Examples given from Python, how their values are scaled, and whether the run directory keeps them."""

    data: Any
    units: Units = None
    keep: bool = False

    def splits(self, recipe: Recipe) -> tuple[dict[str, Any], Splits]:
        """Return the settings of the data set that they are, and the examples. Raises: DataError if they do not fit."""
        spec, splits = given_splits(self.data, like=build_dataset(recipe).spec, units=self.units)
        settings = {"kind": spec.kind, "shape": list(spec.shape), "mean": spec.mean, "std": spec.std}
        known = {"classes": spec.classes, "path": KEPT if self.keep else None}
        return {"name": "memory", "batch": recipe.batch, **settings, **known}, splits


@contextmanager
def begun(
    path: Path,
    overrides: Sequence[str],
    *,
    callbacks: Sequence[Callback],
    budget: str | None = None,
    since: float | None = None,
    weights: Path | None = None,
    given: Given | None = None,
    like: Path | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    out: Path = Path("runs"),
) -> Iterator[Prepared]:
    """Prepare a new run of a recipe, and hold its lock for the context.

    Arguments:
        path: the recipe's file.
        overrides: its overrides.
        callbacks: what follows the run.
        budget: the time to end within, such as 5m; by default the recipe's updates.
        since: when the budget began, by `time.monotonic`; by default now.
        weights: a run, a weights file or a shipped model, from whose weights it starts.
        given: examples from Python; by default the recipe's data are read.
        like: a run that this one repeats with the overrides, with its data; the path is then that of its recipe.
        device: where to train.
        data_dir: the data root.
        out: the parent of the run directories.

    Raises: VqtkError.
    """
    since = time.monotonic() if since is None else since
    start, expected_s = weights_of(weights) if weights else None, None if budget is None else seconds(budget)
    repeated = RunDirectory.to_repeat(like) if like else None
    recipe, splits, place = load_recipe(path, list(overrides)), None, None
    if given:
        settings, splits = given.splits(recipe)
        overrides = [*overrides, f"data={json.dumps(settings)}"]
        recipe = load_recipe(path, overrides)
    elif repeated:
        splits, place = data_like(recipe, repeated, data_dir=data_dir, say=_saying(callbacks))
    root, chosen = data_root(data_dir, of=build_dataset(recipe)), choose_device(device)
    where = {"data_root": root, "place": place, "device": chosen, "callbacks": callbacks}
    experiment = Experiment.of(recipe, splits=splits, expected_s=expected_s, **where)  # type: ignore[arg-type]
    for line in [*([splits.note] if splits and splits.note else []), *(f"warning: {one}" for one in unchanged(recipe))]:
        experiment.say(line)
    facts: dict[str, Any] = {}
    if budget is not None:
        fit = settings_within(experiment, budget, since=since, free=start is None)
        recipe = load_recipe(path, [*overrides, *fit.overrides])
        timed = experiment
        experiment = Experiment.of(recipe, splits=timed.splits, **where)  # type: ignore[arg-type]
        if timed.at_centres:
            experiment.trainer.model.load_state_dict(timed.trainer.model.state_dict())
            experiment.at_centres = True
        facts = {"budget": budget, "updates_within_budget": fit.updates}
    if repeated:
        facts["like"] = {**repeated.identity(), "overrides": list(overrides)}
    if start:
        facts["from"] = _begin_with(experiment, start)
    directory = RunDirectory.create(out, recipe, {**experiment.manifest(), **facts})
    with locked(directory.path / RUN, what=f"The run {directory.path}"):
        if given and given.keep:
            keep_examples(experiment.splits, directory.path)
        yield experiment, directory


@contextmanager
def resumed(
    path: Path,
    *,
    callbacks: Sequence[Callback],
    given: Given | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    keep_threads: bool = True,
) -> Iterator[Prepared]:
    """Restore a stopped run to its newest checkpoint, and hold its lock for the context; arguments as of `begun`.

    With `keep_threads`, torch uses as many threads as before.

    Raises: VqtkError.
    """
    directory, recipe = RunDirectory.open(path)
    with locked(path / RUN, what=f"The run {path}"):
        manifest = directory.manifest()
        threads = manifest.get("threads")
        if keep_threads and isinstance(threads, int) and threads > 0:
            torch.set_num_threads(threads)
        chosen = choose_device(device)
        if given:
            splits = given.splits(recipe)[1]
        else:
            splits = own_splits(recipe, directory, data_dir=data_dir, say=_saying(callbacks))
        experiment = Experiment.of(
            recipe, data_root=path, device=chosen, callbacks=callbacks, splits=splits, recorded=manifest
        )
        go_on(experiment, directory)
        yield experiment, directory


def _begin_with(experiment: Experiment, weights: Path) -> dict[str, Any]:
    """Copy weights into an experiment's model to start a new run from them; return their record for the manifest.

    Raises: CheckpointError if they do not fit, or were trained on text with another vocabulary.
    """
    tensors, metadata = read_weights(weights)
    model, facts = experiment.trainer.model, metadata["facts"]
    copy_into(model, tensors, weights)
    if facts.get("characters") != model.data.characters:
        raise CheckpointError(
            f"{weights}: these weights were trained on text with another vocabulary than that in "
            f"{experiment.splits.source}, so their tokens are other characters. Use weights trained on this text."
        )
    return {"path": os.path.abspath(weights), "sha256": file_sha256(weights), "update": facts.get("update")}


def _saying(callbacks: Sequence[Callback]) -> Callable[[str], None]:
    """Return a function that passes a message to every callback."""

    def say(line: str) -> None:
        for callback in callbacks:
            callback.on_message(line)

    return say


def carry_out(experiment: Experiment, directory: RunDirectory, display: PlainDisplay) -> tuple[bool, list[int]]:
    """Train a run until it is done, or a signal or callback stops it; return whether it is done, and the signals.

    The first signal, such as that of Ctrl-C, stops it with a checkpoint.

    Raises: VqtkError.
    """
    experiment.say(f"Run directory: {directory.path}")
    with display, stopping_on_signals(display) as received:
        finished = run_experiment(experiment, directory)
    if finished:
        experiment.say(f"Done: {directory.path}\nLook at it: {directory.path / 'report.html'}")
    else:
        done = experiment.trainer.done
        experiment.say(f"Stopped after update {done}, with a checkpoint. Resume: vqtk run --resume {directory.path}")
    return finished, received
