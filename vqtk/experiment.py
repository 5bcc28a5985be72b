"""One run, from a recipe to what it leaves behind."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets._base import Splits
from vqtk.errors import CheckpointError
from vqtk.evaluate.references import AFFORDABLE_SHARE as SHARE
from vqtk.evaluate.references import expected_s, references
from vqtk.evaluate.walks import evaluate, fixed_subset
from vqtk.io.atomic import file_sha256
from vqtk.io.plugins import records
from vqtk.io.weights import checkpoints, fit, read_weights
from vqtk.recipe.build import build_dataset, build_model
from vqtk.recipe.recipe import Recipe
from vqtk.registry import installed
from vqtk.report.page import write_report
from vqtk.report.pictures import write_all
from vqtk.train.budget import WARM_UP, Measured, measure, seconds
from vqtk.train.device import peak_memory_mb
from vqtk.train.execution import resolve
from vqtk.train.loop import Callback, Trainer, train
from vqtk.train.run_data import recorded_place, require_same
from vqtk.train.run_directory import RunDirectory, environment

AFFORDABLE_SHARE = 0.1
"""The part of a run's time that evaluating all of the test split at the end may take."""
AFFORDABLE_S = 20.0


@dataclass
class Experiment:
    """A recipe's model and data on a device, ready to be trained.

    `callbacks` follow the run. With `whole_test` all test items are evaluated at the end, however long it takes.
    `place` is where the data were read from.
    """

    recipe: Recipe
    trainer: Trainer
    splits: Splits
    device: torch.device
    callbacks: Sequence[Callback]
    whole_test: bool = False
    place: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        subset = fixed_subset(self.splits.test, self.recipe.train.evaluate_items, self.recipe.seed)
        self._subset = subset
        self._shown = self._targets(fixed_subset(self.splits.test, self.recipe.train.picture_items, self.recipe.seed))

    def _targets(self, indices: Tensor) -> Tensor:
        return self.trainer.model.data.normalise(self.splits.test[indices].to(self.device))

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        data_root: Path,
        device: torch.device,
        callbacks: Sequence[Callback] = (),
        splits: Splits | None = None,
        whole_test: bool = False,
        recorded: dict[str, Any] | None = None,
        expected_s: float | None = None,
    ) -> Experiment:
        """Build a recipe's model and read its data, unless it is given.

        `recorded` is the manifest of a run to go on with: its updates are computed as they were. `expected_s` is how
        long the training will take, where that is known.
        Raises: RecipeError, DataError.
        """
        model, dataset = build_model(recipe, device=device), build_dataset(recipe)
        if splits is None:
            splits = dataset.load(data_root)
            if splits.note:
                _say(callbacks, splits.note)
        model.data = replace(model.data, characters=splits.characters)
        execution = resolve(recipe, model, recorded=(recorded or {}).get("execution"), expected_s=expected_s)
        trainer = Trainer(recipe, model, execution)
        return cls(recipe, trainer, splits, device, callbacks, whole_test, recorded_place(dataset, data_root))

    def say(self, line: str) -> None:
        """Tell the callbacks a line for the user."""
        _say(self.callbacks, line)

    def evaluated(self, update: int, row: dict[str, Any]) -> None:
        """Tell the callbacks the metrics of test items."""
        for callback in self.callbacks:
            callback.on_evaluation(update, row)

    def evaluate(self, *, all_items: bool = False) -> dict[str, Any]:
        """Return the test figures on the fixed subset, or on all items: `row`, `stages`, and `usage` (s, k)."""
        items = None if all_items else self._subset
        found = evaluate(self.trainer.model, self.splits.test, items=items)
        objective = self.trainer.objective.figures(lambda: self._targets(self._subset))
        return {
            "update": self.trainer.done,
            "items": found.items,
            "row": {"items": found.items, **found.row(), **objective},
            "stages": found.stages(),
            "usage": found.usage.tolist(),
        }

    def picture(self, folder: Path, update: int) -> None:
        """Write the pictures of the model as it is."""
        write_all(self.trainer.model, self._shown, folder, update)

    def manifest(self) -> dict[str, Any]:
        """Return what the run is made with."""
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "bits_per_item": self.trainer.model.bits,
            "options": self.trainer.model.options,
            "kind": self.trainer.model.data.kind,
            "loss": self.recipe.loss,
            "data": {**self.splits.fingerprint(), **self.place},
            **({"characters": self.splits.characters} if self.splits.characters else {}),
            "execution": self.trainer.execution.recorded(),
            "plugins": records(self.recipe.plugins),
            "installed": {one.package: one.version for one in installed()},
            **self.trainer.objective.facts(),
            **environment(self.device),
        }

    def check_same_data(self, manifest: dict[str, Any]) -> None:
        """Raise DataError if the items are not those that a run's manifest records."""
        require_same(manifest.get("data", {}), self.splits)


def _say(callbacks: Sequence[Callback], line: str) -> None:
    for callback in callbacks:
        callback.on_message(line)


def begin_with(experiment: Experiment, weights: Path) -> dict[str, Any]:
    """Copy weights into an experiment's model, as the start of a new run; return which they are, for its manifest.

    Raises: CheckpointError if they do not fit, or are of text of another vocabulary.
    """
    tensors, metadata = read_weights(weights)
    model, facts = experiment.trainer.model, metadata["facts"]
    fit(model, tensors, weights)
    if facts.get("characters") != model.data.characters:
        raise CheckpointError(
            f"{weights}: these weights were trained on text of another vocabulary than that in "
            f"{experiment.splits.source}, so that their tokens are other characters. Begin with weights of this text."
        )
    return {"path": os.path.abspath(weights), "sha256": file_sha256(weights), "update": facts.get("update")}


def updates_within(experiment: Experiment, budget: str) -> int:
    """Return the number of updates that fit the budget on this machine; the experiment stays as it is."""
    allowed, settings = seconds(budget), experiment.recipe.train
    started = time.monotonic()
    experiment.say(f"Measuring on {WARM_UP} updates how many fit into {budget} …")
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(
            experiment.trainer,
            experiment.splits.train,
            experiment.evaluate,
            lambda: experiment.picture(Path(scratch), 0),
        )
    final_s = measured.evaluation_s * _final_items(experiment, allowed, measured) / len(experiment._subset)
    final_s += _references_s(experiment, allowed)
    updates = measured.updates_within(
        allowed - (time.monotonic() - started),
        evaluate_every=settings.evaluate_every,
        picture_minutes=settings.picture_minutes,
        final_s=final_s,
    )
    if updates == 1:
        experiment.say(f"Measuring alone takes about as long as {budget} here: training for one update.")
    experiment.say(f"{budget}: {updates} updates of {1e3 * measured.step_s:.0f} ms each.")
    return updates


def _final_items(experiment: Experiment, run_s: float, measured: Measured) -> int:
    """Return how many test items the end of a run evaluates: all, if asked to or if it takes little of its time."""
    subset, every = len(experiment._subset), len(experiment.splits.test)
    if experiment.whole_test:
        return every
    whole_s = measured.evaluation_s * every / subset
    return every if whole_s <= max(AFFORDABLE_S, AFFORDABLE_SHARE * run_s) else subset


def go_on(experiment: Experiment, directory: RunDirectory, *, anew: bool = False) -> None:
    """Bring an experiment to where its run was stopped: the newest checkpoint; with `anew` the start, if there is none.

    Raises: CheckpointError if none of its checkpoints can be read, DataError if the data are not the same.
    """
    note = None if anew and not checkpoints(directory.path) else directory.restore(experiment.trainer)
    if note:
        experiment.say(note)
    experiment.check_same_data(directory.manifest())
    directory.rewind_metrics(experiment.trainer.done)
    experiment.say(f"Going on after update {experiment.trainer.done} of {experiment.recipe.train.updates}.")


def run(experiment: Experiment, directory: RunDirectory) -> bool:
    """Train to the end, or until a callback asks to stop, and write what was reached. Return whether it is done."""
    trainer = experiment.trainer
    for line in trainer.execution.notes:
        experiment.say(line)
    callbacks = [*experiment.callbacks, _Recording(experiment, directory)]
    finished = train(trainer, experiment.splits.train, directory.log, callbacks)
    _save(trainer, directory)
    if finished:
        _finish(experiment, directory)
    return finished


class _Recording(Callback):
    """Evaluates, draws and saves a run when these are due."""

    def __init__(self, experiment: Experiment, directory: RunDirectory):
        self.experiment, self.directory = experiment, directory

    def on_evaluation_due(self, update: int) -> None:
        """Evaluate the fixed test items."""
        evaluation = self.experiment.evaluate()
        self.directory.write_evaluation(evaluation)
        self.directory.log({"update": update, "test": evaluation["row"]})
        self.experiment.evaluated(update, evaluation["row"])

    def on_pictures_due(self, update: int) -> None:
        """Draw the model as it is."""
        self.experiment.picture(self.directory.images, update)

    def on_checkpoint_due(self, update: int) -> None:
        """Write a checkpoint, and the report."""
        _save(self.experiment.trainer, self.directory)


def _save(trainer: Trainer, directory: RunDirectory) -> None:
    """Write a checkpoint and the report. Raises: VqtkError, before it writes, if the last losses are not finite."""
    trainer.metrics()
    directory.save(trainer)
    write_report(directory.path)


def _finish(experiment: Experiment, directory: RunDirectory) -> None:
    trainer, test = experiment.trainer, experiment.splits.test
    _record_skipped(experiment, directory)
    began = time.monotonic()
    evaluation = experiment.evaluate()
    measured = Measured(0.0, time.monotonic() - began, 0.0)
    if _final_items(experiment, trainer.seconds, measured) == len(test) > evaluation["items"]:
        evaluation = experiment.evaluate(all_items=True)
    row = evaluation["row"]
    directory.write_evaluation(evaluation)
    directory.log({"update": trainer.done, "test": row, "end": True})
    experiment.evaluated(trainer.done, row)
    experiment.picture(directory.images, trainer.done)
    directory.write_summary(
        {
            "updates": trainer.done,
            "train_s": round(trainer.seconds, 1),
            "peak_memory_mb": round(peak_memory_mb(experiment.device)),
            "test_items": evaluation["items"],
            "test_is_subset": evaluation["items"] < len(test),
            "test": row,
            "stages": evaluation["stages"],
        }
    )
    if _references_s(experiment, trainer.seconds):
        keep = directory.path / "references.json"
        references(trainer.model, experiment.splits, seed=experiment.recipe.seed, keep=keep)
    write_report(directory.path)


def _references_s(experiment: Experiment, train_s: float) -> float:
    """Return how long computing the references takes; 0 where that is too much of the run's time, so they are not."""
    takes = expected_s(experiment.trainer.model, experiment.splits)
    return takes if takes <= SHARE * train_s else 0.0


def _record_skipped(experiment: Experiment, directory: RunDirectory) -> None:
    """Say which damaged files training passed over, and put them into the manifest."""
    recorded = directory.manifest()["data"]
    skipped = experiment.splits.train.skipped + experiment.splits.test.skipped
    if len(skipped) > recorded.get("skipped", {}).get("count", 0):
        experiment.say(f"{len(skipped)} damaged files were skipped, the first of them {skipped[0]}.")
        directory.write_manifest({"data": {**recorded, "skipped": {"count": len(skipped), "first": skipped[:10]}}})
