"""Runs from Python: `vqtk.train` trains as `vqtk run` does, and `vqtk.Run` opens what a run wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from vqtk.callbacks import Callback, PlainDisplay, make_display
from vqtk.datasets import Splits, Units, data_root, given_splits
from vqtk.datasets.memory import KEPT, keep_examples
from vqtk.errors import CheckpointError, DataError, RecipeError, VqtkError
from vqtk.files import RUN, locked
from vqtk.io.run_files import read_metrics
from vqtk.io.weights import checkpoints, load, weights_of
from vqtk.models import Model
from vqtk.process import ECHO_S, stopping_on_signals
from vqtk.recipe.build import build_dataset, unchanged
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.runs.budget import seconds, settings_within
from vqtk.runs.data import data_like, own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment, go_on, run_experiment
from vqtk.runs.start import begin_with
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
        facts["from"] = begin_with(experiment, start)
    made = RunDirectory.create(out, recipe, {**experiment.manifest(), **facts}) if processes.leads else None
    return experiment, RunDirectory(Path(processes.of_first(str(made.path) if made else "")))


def _begun_before(out: Path, recipe: Recipe, budget: str | None) -> str | None:
    """Return the unfinished run of a recipe that this launch began before it started its processes again, if any."""
    launch = launch_id()
    for path in sorted((out / recipe.name).glob("*/manifest.json"), reverse=True) if launch else []:
        with suppress(CheckpointError):  # Another run's manifest is damaged.
            facts = RunDirectory(path.parent).manifest()
            # A budget's updates, which the recipe of the run has, would be measured anew.
            same = facts.get("budget") == budget and (
                budget or facts["recipe"] == json.loads(json.dumps(recipe.plain()))
            )
            if facts.get("launch") == launch and same and checkpoints(path.parent):
                return None if (path.parent / "summary.json").exists() else str(path.parent)
    return None


@contextmanager
def _held(directory: RunDirectory, processes: Processes) -> Iterator[None]:
    """Hold the lock of a run, in the process that leads."""
    with locked(directory.path / RUN, what=f"The run {directory.path}") if processes.leads else nullcontext():
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


# ── the public interface ─────────────────────────────────────────────────────────────────────────


def train(
    recipe: str | Path,
    *overrides: str,
    data: Any = None,
    units: Units = None,
    keep_data: bool = False,
    callbacks: Sequence[Callback] = (),
    budget: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    out: str | Path = "runs",
    quiet: bool = False,
) -> Run:
    """Train the model that a recipe describes, as the command `vqtk run` does, and return the run.

        run = vqtk.train("recipes/mnist.yaml", "train.updates=2000", data=images, callbacks=[StopBelow(0.3)])

    An interrupt (Ctrl-C, or a notebook's stop button) writes a checkpoint and returns the run, which `run.resume()`
    continues.

    Arguments:
        recipe: the path of a recipe.
        overrides: its overrides, such as `model.stages=5`.
        data: examples to train on instead of the recipe's data: a tensor or array (n, …), a torch `Dataset`, a Hugging
            Face data set, or a mapping of `train` and `test` to these. They must be of the recipe's kind of data.
        units: how the values of `data` are scaled. Pixels are whole numbers from 0 to 255, or have the range (black,
            white) given here, such as (0, 1). Signals and vectors are normalised, unless they are in `training` units.
        keep_data: write `data` to the run directory, for commands that need them.
        callbacks: what follows the run, besides its display and those that the recipe names.
        budget: the time to train for, such as 5m; by default the recipe's updates.
        weights: a run, a weights file or a shipped model, from whose weights to start.
        device: auto, cpu, cuda, cuda:N or mps.
        data_dir: the folder of the data sets.
        out: the parent of the run directories.
        quiet: show nothing.

    Raises: VqtkError; RecipeError with every problem of the recipe at once, DataError if the data do not fit.
    """
    if data is None and (units is not None or keep_data):
        raise DataError("`units` and `keep_data` describe `data`, which is not given. Leave them out, or give `data`.")
    display = display_of(quiet=quiet)
    begin = begun(
        Path(recipe),
        overrides,
        callbacks=_led(display, _checked(callbacks)),
        budget=budget,
        weights=None if weights is None else Path(weights),
        given=None if data is None else Given(data, units, keep_data),
        device=device,
        data_dir=None if data_dir is None else Path(data_dir),
        out=Path(out),
    )
    with begin as (experiment, directory):
        carry_out(experiment, directory, display)
    return Run(directory.path, device=str(experiment.device))


class Run:
    """A run: its model, its metrics, its images and its files.

    Arguments:
        path: the run directory.
        device: the device of its model.

    Raises: CheckpointError if it is not a run directory.
    """

    def __init__(self, path: str | Path, *, device: str = "cpu"):
        self.path, self.device = Path(path), device
        self._directory, self.recipe = RunDirectory.open(self.path)

    def __repr__(self) -> str:
        return f"vqtk.Run({str(self.path)!r})  # {self._state()}"

    def _repr_html_(self) -> str:
        newest = [row for row in self.metrics if row["part"] != "train"][-1:]
        return f"<p><b>{escape(self.recipe.name)}</b>: {escape(str(self.path))}, {self._state()}</p>{_html(newest)}"

    @property
    def finished(self) -> bool:
        """Whether all updates of the recipe are done, and the results are written."""
        return (self.path / "summary.json").exists()

    @property
    def model(self) -> Model:
        """The trained model, of the newest checkpoint. Raises: CheckpointError if there is none."""
        return self._model

    @cached_property
    def _model(self) -> Model:
        return load(self.path, device=self.device)

    @property
    def metrics(self) -> Metrics:
        """The metrics so far: training metrics every ten updates, and test metrics."""
        return Metrics(_rows(read_metrics(self.path / "metrics.jsonl")[0]))

    @property
    def summary(self) -> dict[str, Any]:
        """The results, as in `summary.json`. Raises: CheckpointError if the run is not finished."""
        return self._directory.summary()

    @property
    def manifest(self) -> dict[str, Any]:
        """The facts of the run, as in `manifest.json`."""
        return self._directory.manifest()

    @property
    def images(self) -> dict[str, Path]:
        """The newest file of each kind of image: `samples`, `reconstructions`, `stages`, `proposals`."""
        found = sorted(self._directory.images.glob("*_[0-9]*.*"))
        return {path.stem.rpartition("_")[0]: path for path in found if path.suffix in (".png", ".txt")}

    @property
    def checkpoints(self) -> list[Path]:
        """The weights files, the newest last."""
        return checkpoints(self.path)

    @property
    def report(self) -> Path:
        """The path of the page about the run."""
        return self.path / "report.html"

    def image(self, name: str = "samples") -> Image.Image | str:
        """Return the newest image of a kind, which a notebook shows; for text, the lines. Raises: DataError."""
        if name not in self.images:
            known = ", ".join(self.images) or "none yet"
            raise DataError(f"{self.path}: there is no image of {name!r}. There are: {known}.")
        path = self.images[name]
        if path.suffix == ".txt":
            return path.read_text(encoding="utf-8")
        with Image.open(path) as opened:
            return opened.copy()

    def resume(
        self,
        *,
        data: Any = None,
        units: Units = None,
        callbacks: Sequence[Callback] = (),
        data_dir: str | Path | None = None,
        quiet: bool = False,
    ) -> Run:
        """Continue the run from its newest checkpoint, as `vqtk run --resume` does; return it. Arguments as of `train`.

        Raises: VqtkError; DataError if the data are not those that it was started with.
        """
        display = display_of(quiet=quiet)
        given = None if data is None else Given(data, units)
        root = None if data_dir is None else Path(data_dir)
        every = _led(display, _checked(callbacks))
        with resumed(self.path, callbacks=every, given=given, device=self.device, data_dir=root) as prepared:
            carry_out(*prepared, display)
        return Run(self.path, device=self.device)

    def _state(self) -> str:
        logged, saved = [row["update"] for row in self.metrics], [int(path.stem[-8:]) for path in self.checkpoints]
        done = max([0, *logged, *saved])
        return f"{done:,} of {self.recipe.train.updates:,} updates{'' if self.finished else ', not finished'}"


class Metrics(list[dict[str, Any]]):
    """Rows of metrics, each a dict with `update` and `part`; `pandas.DataFrame(run.metrics)` is a data frame.

    The part is `train`, `test` for the fixed subset of the test examples, or `final` for all that the run ends with.
    """

    def curve(self, metric: str, part: str = "train") -> tuple[list[int], list[float]]:
        """Return a metric over updates, as two lists to plot; empty if it was not measured."""
        rows = [row for row in self if row["part"] == part and metric in row]
        return [row["update"] for row in rows], [row[metric] for row in rows]

    def _repr_html_(self) -> str:
        return _html(self)


def _checked(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    """Return callbacks as they are. Raises: VqtkError if they are not a list of `Callback` objects."""
    given: list[Any] = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    wrong = [one for one in given if not isinstance(one, Callback)]
    if wrong or not isinstance(callbacks, (list, tuple)):
        raise VqtkError(
            f"callbacks={(wrong or given)[0]!r:.80}: expected a list of objects whose class extends vqtk.Callback, as "
            "[StopBelow(0.3)]. A tracker is named by an override: train.track=[tensorboard]."
        )
    return callbacks


def display_of(*, quiet: bool = False, shorter: str | None = None) -> PlainDisplay:
    """Return the display of this process, which shows nothing if another leads; `shorter` as of `make_display`."""
    return PlainDisplay(Console(quiet=True), None) if quiet or follows() else make_display(shorter=shorter)


def _led(display: PlainDisplay, callbacks: Sequence[Callback]) -> list[Callback]:
    """Return what follows the run in this process: the callbacks only where it leads."""
    return [display] if follows() else [display, *callbacks]


def _rows(logged: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `metrics.jsonl`, one for each part."""
    for row in logged:
        update = row["update"]
        if "subset" in row:
            yield {"update": update, "part": "test", **row["subset"]}
            yield {"update": update, "part": "final", **row["test"]}
        elif "test" in row:
            yield {"update": update, "part": "test", **row["test"]}
        else:
            yield {"update": update, "part": "train", **{key: row[key] for key in row if key != "update"}}


def _html(rows: Sequence[dict[str, Any]], most: int = 20) -> str:
    """Return rows as a table; of many, some at equal distances."""
    shown = [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)] if len(rows) > most else rows
    columns = list(dict.fromkeys(key for row in shown for key in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    cells = ["".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) for row in shown]
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    more = f"<p>{len(shown)} of {len(rows):,} rows</p>" if len(shown) < len(rows) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else escape(str(value))
