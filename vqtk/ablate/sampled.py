"""How near a cell's samples are to data: measured once it is trained, where its study compares by that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from vqtk.ablate.named_metrics import SAMPLES
from vqtk.errors import CheckpointError
from vqtk.evaluate.quality import quality
from vqtk.experiment import Experiment
from vqtk.io.run_files import StudyFile, read_file
from vqtk.train.run_directory import RunDirectory


def asked(metrics: Iterable[str]) -> bool:
    """Return whether any of a study's metrics is one of samples."""
    return any(name in SAMPLES for name in metrics)


def asked_by(study: Path) -> bool:
    """Return whether the study in this directory has a metric of samples; False if there is none."""
    try:
        return asked(metric["name"] for metric in read_file(study / "study.json", StudyFile).get("metrics", []))
    except CheckpointError:
        return False


def is_measured(cell: Path) -> bool:
    """Return whether a cell's summary has the metrics of samples."""
    try:
        return SAMPLES.keys() <= RunDirectory(cell).summary()["test"].keys()
    except CheckpointError:
        return False


def measure_samples(experiment: Experiment, directory: RunDirectory) -> None:
    """Compare a trained model's samples with the test images, and add what is found to its summary.

    As many samples as test items, at most 10,000. Raises: DataError if there are no features to compare them in.
    """
    recipe, splits = experiment.recipe, experiment.splits
    name, every = recipe.data.entry.name, torch.arange(len(splits.test))
    experiment.say("Comparing samples with test items …")
    found = quality(experiment.trainer.model, splits, items=every, name=name, seed=recipe.seed)
    if found.note:
        experiment.say(f"{found.note} Used instead: {found.features.title}.")
    summary = directory.summary()
    row = {**summary["test"], **{metric: getattr(found, figure) for metric, figure in SAMPLES.items()}}
    directory.write_summary({**summary, "test": row, "quality": found.plain()})
