"""One run of a study, trained to its end or until it is asked to stop: `python -m vqtk.study.worker RUN_DIR`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vqtk.callbacks import Callback, Progress
from vqtk.compare.metrics import Criterion, finite
from vqtk.datasets import data_root
from vqtk.errors import CheckpointError, LockedError, VqtkError
from vqtk.evaluate.overview import measured_by_name
from vqtk.files import RUN, locked, write_text
from vqtk.io.run_files import LimitsFile, StudyFile, read_file
from vqtk.metrics import CurveMetric, RetrievalMetric, SampleMetric, metric_class
from vqtk.plugin.loading import described, loaded_plugins
from vqtk.recipe.build import build_dataset, build_metric
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.data import own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import go_on, run_experiment
from vqtk.study.state import LOCKED, STOP, Settings, State, read_state, write_state
from vqtk.training.execution import choose_device

LIMITS = "limits.json"
"""The file in a run's directory that says when the run is hopeless."""


def write_limits(run: Path, metric: Criterion, limits: dict[int, float]) -> None:
    """Write into a run's directory what its metric must reach at the evaluations after some updates."""
    write_text(run / LIMITS, json.dumps({"metric": metric.plain(), "limits": limits}, indent=2) + "\n")


ORPHAN_S = 120.0
"""How long a worker waits for an orphaned worker on the same run to end."""
_LOOK_S = 0.5


class Following(Callback):
    """Prints messages, and looks for a reason to stop: a file, or the end of the process that started this one.

    A run is hopeless, and stops, once the best value of its metric so far is worse than the limit at an evaluation.
    """

    def __init__(self) -> None:
        self.limits: dict[str, Any] | None = None
        self.best: float | None = None
        self.pruned: str | None = None
        self.stop_file: Path | None = None
        self.parent = os.getppid()
        self.looked = 0.0

    def on_update(self, progress: Progress) -> None:
        """Look, now and then."""
        if time.monotonic() - self.looked >= _LOOK_S:
            self.looked = time.monotonic()
            asked = self.stop_file is not None and self.stop_file.exists()
            self.stop = self.stop or asked or os.getppid() != self.parent

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        """Print the metrics of test or validation examples."""
        print(f"{'validation' if row.get('validation') else 'test'} after {update}: {row}", flush=True)
        if self.limits:
            self._prune(update, row, self.limits)

    def _prune(self, update: int, row: dict[str, Any], found: dict[str, Any]) -> None:
        metric, limit = found["metric"]["name"], found["limits"].get(str(update))
        sign = -1 if found["metric"]["better"] == "higher" else 1
        value = finite(row.get(metric))
        if value is not None:
            self.best = value if self.best is None else sign * min(sign * self.best, sign * value)
        if limit is not None and self.best is not None and sign * self.best > sign * limit:
            self.stop = True
            self.pruned = (
                f"{metric} was {self.best:.4g} at best after {update:,} updates; the median of earlier runs with this "
                f"seed was {limit:.4g}."
            )

    def on_message(self, line: str) -> None:
        """Print the line."""
        print(line, flush=True)


def train_run(run: Path, settings: Settings, *, worker: str = "", following: Following | None = None) -> State:
    """Train a run to its end, from its newest checkpoint if there is one, and return its state.

    The study's metrics that it then lacks are measured. An exception is recorded in the state and not raised.

    Raises: LockedError if another process trains it.
    """
    with locked(run / RUN, what=f"The run {run}", wait_s=ORPHAN_S):
        before, metrics = read_state(run), metrics_of_study(run.parent.parent)
        if before.state == "done" and is_measured(run, metrics):
            return before
        worker, host = worker or f"pid {os.getpid()}", socket.gethostname()
        state = State("running", None, before.attempts + 1, worker, host)
        write_state(run, state)
        try:
            following = following or Following()
            finished = _train(run, settings, following, metrics)
        except Exception as error:  # The failure of one run does not end the study.
            state = replace(state, state="failed", error=_reason(error))
        else:
            pruned = None if finished else following.pruned
            state = replace(state, state="done" if finished else "pruned" if pruned else "stopped", error=pruned)
        write_state(run, state)
    return state


def _train(run: Path, settings: Settings, following: Following, metrics: Sequence[str]) -> bool:
    begun = (run / "manifest.json").is_file()
    directory, recipe = RunDirectory.open(run) if begun else (RunDirectory(run), load_recipe(run / "recipe.yaml"))
    torch.set_num_threads(directory.manifest().get("threads") or settings.threads or torch.get_num_threads())
    following.stop_file = run.parent.parent / STOP
    following.parent = settings.parent or following.parent
    following.limits = read_file(run / LIMITS, LimitsFile) if (run / LIMITS).is_file() else None
    root, say = data_root(settings.data_dir, of=build_dataset(recipe)), following.on_message
    experiment = Experiment.of(
        recipe,
        data_root=root,
        device=choose_device(settings.device),
        callbacks=[following],
        splits=own_splits(recipe, directory, data_dir=settings.data_dir, say=say) if begun else None,
        recorded=directory.manifest(),
    )
    if begun:
        go_on(experiment, directory, from_start=True)
    else:
        directory.write_manifest(experiment.manifest())
    finished = run_experiment(experiment, directory, again="the study's command with --retry")
    if finished:
        measure_missing(experiment, directory, metrics)
    return finished


def _stopped_by_sigterm() -> Following:
    """Return a callback that SIGTERM stops. Ctrl-C is left to the parent, which stops its workers by a file."""
    following = Following()

    def ask(*_: object) -> None:
        following.stop = True

    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return following


def _reason(error: Exception) -> str:
    if isinstance(error, VqtkError):
        return str(error)
    traceback.print_exc()
    return described(error)


def wants_samples(metrics: Iterable[str]) -> bool:
    """Return whether any of these metrics is one of samples."""
    return any(issubclass(metric_class(name) or object, SampleMetric) for name in metrics)


def metrics_of_study(study: Path) -> list[str]:
    """Return the names of the metrics of the study in a directory; [] without a study."""
    try:
        return [metric["name"] for metric in read_file(study / "study.json", StudyFile).get("metrics", [])]
    except CheckpointError:
        return []


def is_measured(run: Path, metrics: Iterable[str]) -> bool:
    """Return whether a run's summary has the metrics; True if there is no summary to which they could be added."""
    try:
        return not _lacking(RunDirectory(run).summary(), metrics)
    except CheckpointError:
        return True


def _lacking(summary: dict[str, Any], metrics: Iterable[str]) -> list[str]:
    """Return the metrics that a summary lacks. Those of the curve are computed from its stages."""
    tested, curve = summary["test"], CurveMetric
    single = [name for name in metrics if not name.startswith("stages.")]
    return [name for name in single if name not in tested and not issubclass(metric_class(name) or object, curve)]


def measure_missing(experiment: Experiment, directory: RunDirectory, metrics: Iterable[str]) -> None:
    """Measure a trained model by the metrics that its run's summary lacks, and add them to it.

    For metrics of samples, there are as many samples as test examples, at most 10,000.

    Raises: DataError if the data lack what a metric needs.
    """
    recipe, splits, summary = experiment.recipe, experiment.splits, directory.summary()
    lacking, every = _lacking(summary, metrics), torch.arange(len(splits.test))
    if not lacking:
        return
    experiment.say(f"Measuring {', '.join(lacking)} …")
    with loaded_plugins([plugin.path for plugin in recipe.plugins]), experiment.trainer.evaluated() as model:
        wanted = dict(build_metric(name, model.data) for name in lacking)
        whole = {name: metric for name, metric in wanted.items() if isinstance(metric, (SampleMetric, RetrievalMetric))}
        others = {name: metric for name, metric in wanted.items() if name not in whole}
        values, _ = measured_by_name(model, recipe, splits, others, items=experiment.final)
        of_whole, sampled = measured_by_name(model, recipe, splits, whole, items=every)
    if sampled and sampled.note:
        experiment.say(f"{sampled.note} Used instead: {sampled.features.title}.")
    beside = {"quality": sampled.plain()} if sampled else {}
    directory.write_summary({**summary, "test": {**summary["test"], **values, **of_whole}, **beside})


def run_worker() -> None:
    """Train the run that the command line names."""
    parser = argparse.ArgumentParser(prog="vqtk.study.worker", description="Train one run of a study.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--worker", default="")
    given = parser.parse_args()
    settings = Settings(given.device, given.data_dir, given.threads, given.parent)
    try:
        reached = train_run(given.run, settings, worker=given.worker, following=_stopped_by_sigterm())
    except LockedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(LOCKED)
    sys.exit(1 if reached.state == "failed" else 0)


if __name__ == "__main__":
    run_worker()
