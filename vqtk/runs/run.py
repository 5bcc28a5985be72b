"""Runs, prepared and carried out: begun from a recipe, from weights or like another run, or resumed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vqtk.callbacks import Callback, PlainDisplay, make_display
from vqtk.datasets import Splits, Units, data_root, given_splits
from vqtk.datasets.memory import KEPT, keep_examples
from vqtk.errors import CheckpointError, RecipeError
from vqtk.files import DEAD_S, RUN, file_sha256, locked
from vqtk.io.run_files import resumable
from vqtk.io.weights import copy_into, read_weights, weights_of
from vqtk.process import ECHO_S, stopping_on_signals
from vqtk.recipe.build import build_dataset, unchanged
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.runs.budget import seconds, settings_within
from vqtk.runs.data import data_like, own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import go_on, run_experiment
from vqtk.training.distributed import Processes, follows, launch_id, together
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

    Processes that torchrun or --devices started train together. If they were started again, they go on with the run
    that they began before, from its newest checkpoint.

    Raises: VqtkError.
    """
    since = time.monotonic() if since is None else since
    with together(choose_device(device)) as processes:
        start, expected_s = weights_of(weights) if weights else None, None if budget is None else seconds(budget)
        repeated = RunDirectory.to_repeat(like) if like else None
        recipe, splits = load_recipe(path, list(overrides)), None
        if given:
            settings, splits = given.splits(recipe)
            overrides = [*overrides, f"data={json.dumps(settings)}"]
            recipe = load_recipe(path, overrides)
        before = processes.of_first(_begun_before(out, recipe, budget) if processes.leads else None)
        if before:
            again = _restored(Path(before), processes, callbacks=callbacks, given=given, data_dir=data_dir)
            with again as prepared:
                yield prepared
            return
        experiment, directory = _begin(
            recipe,
            processes,
            partial(load_recipe, path),
            overrides,
            splits=splits,
            callbacks=callbacks,
            budget=budget,
            expected_s=expected_s,
            since=since,
            start=start,
            repeated=repeated,
            data_dir=data_dir,
            out=out,
        )
        with _held(directory, processes):
            if given and given.keep and processes.leads:
                keep_examples(experiment.splits, directory.path)
            yield experiment, directory


def _begin(
    recipe: Recipe,
    processes: Processes,
    load_with: Callable[[list[str]], Recipe],
    overrides: Sequence[str],
    *,
    splits: Splits | None,
    callbacks: Sequence[Callback],
    budget: str | None,
    expected_s: float | None,
    since: float,
    start: Path | None,
    repeated: RunDirectory | None,
    data_dir: Path | None,
    out: Path,
) -> Prepared:
    """Build a new run of a recipe and make its directory.

    `load_with` returns the recipe with other overrides, `splits` are the data if they were given, `start` the weights
    to start from, and `repeated` is the run to repeat; other arguments as of `begun`.
    """
    if budget is not None and processes.size > 1:
        raise RecipeError(f"--budget {budget}: it is measured for one process alone. Give train.updates=N instead.")
    place = None
    if repeated and not splits:
        splits, place = data_like(recipe, repeated, data_dir=data_dir, say=_saying(callbacks))
    root = data_root(data_dir, of=build_dataset(recipe))
    of = partial(
        Experiment.of,
        data_root=root,
        place=place,
        device=processes.device,
        callbacks=callbacks,
        processes=processes,
    )
    experiment = of(recipe, splits=splits, expected_s=expected_s)
    for line in [*([splits.note] if splits and splits.note else []), *(f"warning: {one}" for one in unchanged(recipe))]:
        experiment.say(line)
    facts: dict[str, Any] = {"launch": launch_id()} if launch_id() else {}
    if budget is not None:
        fit = settings_within(experiment, budget, since=since, free=start is None)
        recipe = load_with([*overrides, *fit.overrides])
        timed = experiment
        experiment = of(recipe, splits=timed.splits)
        if timed.at_centres:
            experiment.trainer.model.load_state_dict(timed.trainer.model.state_dict())
            experiment.at_centres = True
        facts |= {"budget": budget, "updates_within_budget": fit.updates}
    if repeated:
        facts["like"] = {**repeated.identity(), "overrides": list(overrides)}
    if start:
        facts["from"] = _begin_with(experiment, start)
    made = RunDirectory.create(out, recipe, {**experiment.manifest(), **facts}) if processes.leads else None
    return experiment, RunDirectory(Path(processes.of_first(str(made.path) if made else "")))


def _begun_before(out: Path, recipe: Recipe, budget: str | None) -> str | None:
    """Return the unfinished run of a recipe that this launch began before it started its processes again, if any."""
    launch = launch_id()
    for path in sorted((out / recipe.name).glob("*/manifest.json"), reverse=True) if launch else []:
        with suppress(CheckpointError):  # Another run's manifest is damaged.
            facts = RunDirectory(path.parent).manifest()
            # A budget's updates, which the recipe of the run has, would be measured again.
            same = facts.get("budget") == budget and (
                budget or facts["recipe"] == json.loads(json.dumps(recipe.plain()))
            )
            if facts.get("launch") == launch and same and resumable(path.parent):
                return None if (path.parent / "summary.json").exists() else str(path.parent)
    return None


@contextmanager
def _held(directory: RunDirectory, processes: Processes) -> Iterator[None]:
    """Hold the lock of a run, in the process that leads."""
    wait_s = 2 * DEAD_S if launch_id() else 0.0  # After a restart it may be on another machine than before.
    what = f"The run {directory.path}"
    with locked(directory.path / RUN, what=what, wait_s=wait_s) if processes.leads else nullcontext():
        yield


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
    with together(choose_device(device)) as processes:
        asked = {"callbacks": callbacks, "given": given, "data_dir": data_dir, "keep_threads": keep_threads}
        with _restored(path, processes, **asked) as prepared:  # type: ignore[arg-type]
            yield prepared


@contextmanager
def _restored(
    path: Path,
    processes: Processes,
    *,
    callbacks: Sequence[Callback],
    given: Given | None,
    data_dir: Path | None,
    keep_threads: bool = True,
) -> Iterator[Prepared]:
    directory, recipe = RunDirectory.open(path)
    with _held(directory, processes):
        manifest = directory.manifest()
        before, threads = manifest.get("processes", 1), manifest.get("threads")
        if keep_threads and before == processes.size and isinstance(threads, int) and threads > 0:
            torch.set_num_threads(threads)
        if given:
            splits = given.splits(recipe)[1]
        else:
            with processes.in_turn():
                splits = own_splits(recipe, directory, data_dir=data_dir, say=_saying(callbacks))
        experiment = Experiment.of(
            recipe,
            data_root=path,
            device=processes.device,
            callbacks=callbacks,
            splits=splits,
            recorded=manifest,
            processes=processes,
        )
        if processes.leads:
            go_on(experiment, directory)
            if before != processes.size:
                experiment.say(
                    f"The run had {before} {'process' if before == 1 else 'processes'} and goes on with "
                    f"{processes.size}: they train on the same batches, so only rounding differs."
                )
                directory.write_manifest({"processes": processes.size})
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
    with display, stopping_on_signals(display, echo_s=ECHO_S if launch_id() else 0.0) as received:
        finished = run_experiment(experiment, directory)
    if finished:
        experiment.say(f"Done: {directory.path}\nLook at it: {directory.path / 'report.html'}")
    else:
        done = experiment.trainer.done
        experiment.say(f"Stopped after update {done}, with a checkpoint. Resume: vqtk run --resume {directory.path}")
    return finished, received


def display_of(*, quiet: bool = False, shorter: str | None = None) -> PlainDisplay:
    """Return the display of this process, which shows nothing if another leads; `shorter` as of `make_display`."""
    return PlainDisplay(Console(quiet=True), None) if quiet or follows() else make_display(shorter=shorter)
