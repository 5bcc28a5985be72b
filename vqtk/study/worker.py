"""One run of a study, trained to its end or until asked to stop: `python -m vqtk.study.worker RUN_DIR`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vqtk.compare.metrics import SAMPLES
from vqtk.datasets import data_root
from vqtk.errors import CheckpointError, VqtkError
from vqtk.evaluate.quality import quality
from vqtk.files import RUN, locked
from vqtk.io.run_files import StudyFile, read_file
from vqtk.plugin.loading import described
from vqtk.recipe.build import build_dataset
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.data import own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment, go_on, run_experiment
from vqtk.study.protocol import STOP, Settings, State, read_state, write_state
from vqtk.train.execution import choose_device
from vqtk.train.loop import Callback, Progress

ORPHAN_S = 120.0
"""How long a worker waits for an orphaned worker on the same run to end."""
_LOOK_S = 0.5


class Following(Callback):
    """Prints messages, and looks for a reason to stop: a file, or the end of the process that started this one."""

    def __init__(self) -> None:
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

    def on_message(self, line: str) -> None:
        """Print the line."""
        print(line, flush=True)


def train_run(run: Path, settings: Settings, *, worker: str = "", following: Following | None = None) -> State:
    """Train a run to its end, from its newest checkpoint if there is one, and return its state.

    If the study compares samples, they are measured then. An exception is recorded in the state and not raised.
    """
    with locked(run / RUN, what=f"The run {run}", wait_s=ORPHAN_S):
        before, samples = read_state(run), study_wants_samples(run.parent.parent)
        if before.state == "done" and (is_measured(run) or not samples):
            return before
        state = State("running", None, before.attempts + 1, worker or f"pid {os.getpid()}")
        write_state(run, state)
        try:
            finished = _train(run, settings, following or Following(), samples=samples)
        except Exception as error:  # The failure of one run does not end the study.
            state = replace(state, state="failed", error=_reason(error))
        else:
            state = replace(state, state="done" if finished else "stopped")
        write_state(run, state)
    return state


def _train(run: Path, settings: Settings, following: Following, *, samples: bool) -> bool:
    begun = (run / "manifest.json").is_file()
    directory, recipe = RunDirectory.open(run) if begun else (RunDirectory(run), load_recipe(run / "recipe.yaml"))
    torch.set_num_threads(directory.manifest().get("threads") or settings.threads or torch.get_num_threads())
    following.stop_file = run.parent.parent / STOP
    following.parent = settings.parent or following.parent
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
    if finished and samples:
        measure_samples(experiment, directory)
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
    return any(name in SAMPLES for name in metrics)


def study_wants_samples(study: Path) -> bool:
    """Return whether the study in a directory has a metric of samples; False without a study."""
    try:
        return wants_samples(metric["name"] for metric in read_file(study / "study.json", StudyFile).get("metrics", []))
    except CheckpointError:
        return False


def is_measured(run: Path) -> bool:
    """Return whether a run's summary has the metrics of samples."""
    try:
        return SAMPLES.keys() <= RunDirectory(run).summary()["test"].keys()
    except CheckpointError:
        return False


def measure_samples(experiment: Experiment, directory: RunDirectory) -> None:
    """Compare a trained model's samples with the test images, and add the metrics to its summary.

    There are as many samples as test examples, at most 10,000.

    Raises: DataError if there are no features to compare them in.
    """
    recipe, splits = experiment.recipe, experiment.splits
    name, every = recipe.data.entry.name, torch.arange(len(splits.test))
    experiment.say("Comparing samples with test examples …")
    with experiment.trainer.evaluated() as model:
        found = quality(model, splits, items=every, name=name, seed=recipe.seed)
    if found.note:
        experiment.say(f"{found.note} Used instead: {found.features.title}.")
    summary = directory.summary()
    row = {**summary["test"], **{metric: getattr(found, name) for metric, name in SAMPLES.items()}}
    directory.write_summary({**summary, "test": row, "quality": found.plain()})


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
    reached = train_run(given.run, settings, worker=given.worker, following=_stopped_by_sigterm())
    sys.exit(1 if reached.state == "failed" else 0)


if __name__ == "__main__":
    run_worker()
