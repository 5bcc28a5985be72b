"""Runs from Python: `vqtk.train` trains as `vqtk run` does, and `vqtk.Run` opens what a run wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from vqtk.callbacks import Callback, PlainDisplay
from vqtk.datasets import Units
from vqtk.errors import DataError, VqtkError
from vqtk.io.run_files import checkpoints, read_metrics
from vqtk.io.weights import load
from vqtk.models import Model
from vqtk.recipe.recipe import require_overrides
from vqtk.runs.directory import RunDirectory
from vqtk.runs.run import Given, begun, carry_out, display_of, resumed
from vqtk.training.distributed import follows


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
    **others: Any,
) -> Run:
    """Train the model that a recipe describes, as the command `vqtk run` does, and return the run.

        run = vqtk.train("recipes/mnist.yaml", "train.updates=2000", data=images, callbacks=[StopBelow(choice=0.3)])

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
    require_overrides(train, others)
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
            "[StopBelow(choice=0.3)]. A tracker is named by an override: train.track=[tensorboard]."
        )
    return callbacks


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
