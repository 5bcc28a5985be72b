"""One run, from a recipe to its summary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.callbacks import Callback, Row, Started
from vqtk.datasets import Split, Splits, fixed_subset
from vqtk.evaluate.evaluation import evaluate
from vqtk.evaluate.overview import of_reconstructions
from vqtk.evaluate.references import REFERENCES_FILE, are_worth_it, references, start_at_centres
from vqtk.io.run_files import resumable
from vqtk.metrics import retrieval_metrics
from vqtk.models.vqdraw import VQDraw
from vqtk.plugin.sources import records
from vqtk.process import environment
from vqtk.recipe.build import build_dataset, build_metrics, build_model
from vqtk.recipe.recipe import Recipe
from vqtk.registry import installed
from vqtk.render.pictures import form, write_all
from vqtk.report.page import write_report
from vqtk.runs.data import recorded_place, require_same
from vqtk.runs.directory import RunDirectory
from vqtk.runs.failure import failure
from vqtk.training.distributed import Processes
from vqtk.training.execution import peak_memory_mb, resolve
from vqtk.training.loop import Trainer, training_loop


@dataclass
class Experiment:
    """A recipe's model and data on a device, ready for training.

    `callbacks` follow the run. `place` is where the data were read from, as the manifest records it. `at_centres` says
    that the model was started at the centres of the data, as `train.init: kmeans` asks, before the run.
    """

    recipe: Recipe
    trainer: Trainer
    splits: Splits
    device: torch.device
    callbacks: Sequence[Callback]
    place: dict[str, str] = field(default_factory=dict)
    at_centres: bool = False

    def __post_init__(self) -> None:
        settings, test, seed = self.recipe.train, self.splits.test, self.recipe.seed
        self.watched = "test" if self.splits.validation is None else "validation"
        """The split of evaluations and images during the run."""
        self.subset = fixed_subset(self.splits.watched, settings.evaluate_items, seed)
        """Indices of the examples of every evaluation during the run: the same ones, so that they form a curve."""
        self.final = fixed_subset(test, settings.final_items or len(test), seed)
        """Indices of the test examples of the final evaluation."""
        self.others = build_metrics(self.recipe, self.trainer.model.data)
        """The metrics that the recipe adds to every evaluation."""
        self._said, self._row = set[str](), Row()
        shown = fixed_subset(self.splits.watched, settings.picture_items, seed)
        self._shown = self._targets(self.splits.watched, shown)

    @property
    def ends_with_more(self) -> bool:
        """Whether the final evaluation is of other examples than those during the run."""
        return self.watched == "validation" or len(self.final) != len(self.subset)

    def _targets(self, split: Split, indices: Tensor) -> Tensor:
        return self.trainer.model.data.normalise(split[indices].to(self.device))

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        data_root: Path,
        device: torch.device,
        callbacks: Sequence[Callback] = (),
        splits: Splits | None = None,
        recorded: dict[str, Any] | None = None,
        place: dict[str, str] | None = None,
        expected_s: float | None = None,
        processes: Processes | None = None,
    ) -> Experiment:
        """Build a recipe's model and read its data.

        Arguments:
            recipe: the recipe.
            data_root: the folder of the data sets.
            device: where to train.
            callbacks: what follows the run, besides the callbacks and trackers that the recipe names; the latter only
                in the process that leads.
            splits: the data, if they are read already.
            recorded: the manifest of a resumed run, whose updates are computed as before.
            place: where these were read from, if that is not below `data_root`.
            expected_s: how long the training will take, in seconds, if that is known.
            processes: the processes that train together; by default this one alone.

        Raises: RecipeError, DataError.
        """
        processes = processes or Processes()
        named = (*recipe.train.callbacks, *recipe.train.track) if processes.leads else ()
        callbacks = [*callbacks, *(make() for make in named)]
        # Of refiners that are held in parts, a device need not hold the whole.
        waits = recipe.train.shard and processes.size > 1
        model, dataset = build_model(recipe, device="cpu" if waits else device), build_dataset(recipe)
        if waits and isinstance(model, VQDraw):
            model.move_rest(device)
        if splits is None:
            with processes.in_turn():
                splits = dataset.splits(data_root)
            if splits.note:
                _say(callbacks, splits.note)
        model.data = replace(model.data, characters=splits.characters)
        before = (recorded or {}).get("execution")
        execution = resolve(recipe, model, recorded=before, expected_s=expected_s, processes=processes.size)
        trainer = Trainer(recipe, model, execution, processes=processes)
        where = recorded_place(dataset, data_root) if place is None else place
        return cls(recipe, trainer, splits, device, callbacks, where)

    def say(self, line: str) -> None:
        """Pass a line for the user to the callbacks."""
        _say(self.callbacks, line)

    def evaluated(self, found: dict[str, Any]) -> None:
        """Pass the metrics of an evaluation, and the usage of options, to the callbacks.

        `validation` marks the metrics of the validation split.
        """
        marked = {"validation": True} if found["split"] == "validation" else {}
        self._row = Row({**found["row"], **marked}, what="an evaluation", before=self._row)
        for callback in self.callbacks:
            callback.on_evaluation(found["update"], self._row)
            callback.on_usage(found["update"], found["usage"])

    def evaluate(self, items: Tensor | None = None) -> dict[str, Any]:
        """Return the metrics of test examples (indices), by default of the fixed subset of the `watched` split.

        They are `row`, `stages` and `usage` (s, k); `items` is the number of examples, `of` that of the whole `split`.
        """
        split, name = (self.splits.watched, self.watched) if items is None else (self.splits.test, "test")
        chosen, every = self.subset if items is None else items, len(split)
        processes = self.trainer.processes
        # A search among fewer vectors finds more.
        whole = name == "test" and len(chosen) == every and processes.leads
        with self.trainer.evaluated() as model:
            others = of_reconstructions(self.others)
            found = evaluate(model, split, items=chosen, others=others, processes=processes)
            searched = retrieval_metrics(model, self.splits, chosen, found.codes) if whole else {}
            usage = {name: found.value(metric) for name, metric in self.others.items() if name not in found.reached}
            besides = {**found.reached, **usage, **self._besides(split, chosen), **searched}
        return {
            "update": self.trainer.done,
            "split": name,
            "items": found.items,
            "of": every,
            "row": {"items": found.items, "of": every, **found.row(), **besides},
            "stages": found.stages(),
            "usage": found.usage.tolist(),
        }

    def _besides(self, split: Split, items: Tensor) -> dict[str, float]:
        """Return the objective's own metrics of examples: means over them, computed a subset's size at a time."""
        total: dict[str, float] = {}
        processes = self.trainer.processes
        own = []
        for part in items.split(len(self.subset))[processes.rank :: processes.size]:
            found = self.trainer.objective.figures(partial(self._targets, split, part))
            own.append({name: value * len(part) for name, value in found.items()})
        for found in chain(*processes.of_each(own)):
            for name, value in found.items():
                total[name] = total.get(name, 0.0) + value
        return {name: value / len(items) for name, value in total.items()}

    def picture(self, folder: Path, update: int) -> None:
        """Write the images of the current model; report each thing that could not be drawn once."""
        with self.trainer.evaluated() as model:
            lines = write_all(model, self._shown, folder, update)
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self.say(line)

    def manifest(self) -> dict[str, Any]:
        """Return the facts of the run for its manifest."""
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "bits_per_item": self.trainer.model.bits,
            "options": self.trainer.model.options,
            "kind": self.trainer.model.data.kind,
            "shown_as": form(self.trainer.model.data),
            "loss": self.recipe.loss,
            "recipe": self.recipe.plain(),
            "data": {**self.splits.fingerprint(), **self.place},
            **({"characters": self.splits.characters} if self.splits.characters else {}),
            "execution": self.trainer.execution.recorded(),
            "processes": self.trainer.processes.size,
            "plugins": records(self.recipe.plugins),
            "installed": {one.package: one.version for one in installed()},
            **self.trainer.objective.facts(),
            **environment(self.device),
        }

    def check_same_data(self, manifest: dict[str, Any]) -> None:
        """Raise DataError if the data are not those that a run's manifest records."""
        require_same(manifest.get("data", {}), self.splits)


def _say(callbacks: Sequence[Callback], line: str) -> None:
    for callback in callbacks:
        callback.on_message(line)


def go_on(experiment: Experiment, directory: RunDirectory, *, from_start: bool = False) -> None:
    """Restore an experiment to its run's newest checkpoint; with `from_start`, to the start if there is no checkpoint.

    Raises: CheckpointError if no checkpoint can be read, DataError if the data are not the same.
    """
    note = None if from_start and not resumable(directory.path) else directory.restore(experiment.trainer)
    if note:
        experiment.say(note)
    experiment.check_same_data(directory.manifest())
    done, settings = experiment.trainer.done, experiment.recipe.train
    directory.rewind_metrics(done)
    experiment.say(f"Resuming after update {done} of {settings.updates}.")


def run_experiment(experiment: Experiment, directory: RunDirectory, *, again: str | None = None) -> bool:
    """Train to the end, or until a callback stops the run, and write the results; return whether the run is done.

    Temporary files of killed processes are removed first. A failure leaves a checkpoint if the state is sound. Of
    several processes, the one that leads does all of this, and the others train and evaluate with it.

    Raises: VqtkError that names the checkpoint and `again`, the command that continues; by default a single run's.
    """
    trainer = experiment.trainer
    if not trainer.processes.leads:
        return _follow(experiment, directory)
    directory.sweep()
    for line in trainer.execution.notes:
        experiment.say(line)
    random = trainer.done == 0 and not experiment.at_centres and "from" not in directory.manifest()
    if trainer.settings.init == "kmeans" and random:
        start_at_centres(trainer.model, experiment.splits.train, seed=experiment.recipe.seed)
    finished, recording = False, _Recording(experiment, directory)
    try:
        _agree(experiment)
        _start(experiment, directory, recording)
        callbacks = [*experiment.callbacks, recording]
        finished = training_loop(trainer, experiment.splits.train, directory.log, callbacks)
        _unite_skipped(experiment)
        _save(trainer, directory)
        directory.finish(trainer)
        if finished:
            _finish(experiment, directory)
    except Exception as error:
        explained, left = failure(error, trainer, directory, manifest=experiment.manifest, again=again)
        if explained:
            raise explained from error
        experiment.say(left)
        raise
    finally:
        for callback in experiment.callbacks:
            callback.on_end(finished)
    return finished


def _start(experiment: Experiment, directory: RunDirectory, recording: _Recording) -> None:
    """Tell the callbacks that the run starts, and catch up on an evaluation that a stopped run did not come to."""
    done, settings = experiment.trainer.done, experiment.recipe.train
    manifest = directory.manifest() or experiment.manifest()
    started = Started(directory.path, experiment.recipe, manifest, experiment.trainer.model, done, experiment.say)
    for callback in experiment.callbacks:
        callback.on_start(started)
    due = 0 < done < settings.updates and done % settings.evaluate_every == 0 and not directory.has_tested(done)
    if experiment.trainer.processes.of_first(due):
        recording.on_evaluation_due(done)


# ── several processes ────────────────────────────────────────────────────────────────────────────


def _agree(experiment: Experiment) -> None:
    """Begin all processes at the state of the one that leads. Raises: DataError if one of them has other data."""
    trainer, splits = experiment.trainer, experiment.splits
    if trainer.processes.size == 1:
        return
    require_same(trainer.processes.of_first(splits.fingerprint()), splits)
    parts = trainer.processes.of_first(str(trainer.resumes_at or ""))
    if parts:
        trainer.resumes_at = Path(parts)
        trainer.shard()
        return
    state = trainer.processes.of_first(trainer.state())  # Before the averaged weights replace those that are trained.
    with trainer.evaluated() if trainer.done else nullcontext(trainer.model) as model:
        weights = trainer.processes.of_first(model.state_dict())
    if not trainer.processes.leads:
        trainer.model.load_state_dict(weights)
        if state["done"]:
            trainer.restore(state)
    trainer.shard()


def _follow(experiment: Experiment, directory: RunDirectory) -> bool:
    """Train and evaluate with the process that leads; return whether all updates are done."""
    processes, following = experiment.trainer.processes, _Following(experiment, directory)
    _agree(experiment)
    if processes.of_first(False):
        experiment.evaluate()
    callbacks = [*experiment.callbacks, following]
    finished = training_loop(experiment.trainer, experiment.splits.train, lambda row: None, callbacks)
    _unite_skipped(experiment)
    following.on_checkpoint_due(experiment.trainer.done)
    directory.finish(experiment.trainer)
    if finished:
        experiment.evaluate()
        if experiment.ends_with_more:
            experiment.evaluate(experiment.final)
        following.on_pictures_due(experiment.trainer.done)
    return finished


class _Following(Callback):
    """Takes part in the evaluations of the process that leads, and gives it the parts of weights that it needs."""

    def __init__(self, experiment: Experiment, directory: RunDirectory):
        self.experiment, self.directory = experiment, directory

    def on_evaluation_due(self, update: int) -> None:
        """Evaluate a part of the examples."""
        self.experiment.evaluate()

    def on_pictures_due(self, update: int) -> None:
        """Let the process that leads gather the weights."""
        if self.experiment.trainer.held:
            with self.experiment.trainer.evaluated():
                pass

    def on_checkpoint_due(self, update: int) -> None:
        """Write this process's parts."""
        if self.experiment.trainer.held:
            self.directory.save(self.experiment.trainer)


def _unite_skipped(experiment: Experiment) -> None:
    """Let the process that leads know the damaged files that any of them skipped."""
    skipped = experiment.splits.train.skipped
    for names in experiment.trainer.processes.of_each(list(skipped)):
        skipped += [name for name in names if name not in skipped]


# ── what is written ──────────────────────────────────────────────────────────────────────────────


class _Recording(Callback):
    """Evaluates, draws and saves a run when due."""

    def __init__(self, experiment: Experiment, directory: RunDirectory):
        self.experiment, self.directory = experiment, directory

    def on_evaluation_due(self, update: int) -> None:
        """Evaluate the fixed subset of the watched split."""
        self.directory.check_there()
        evaluation = self.experiment.evaluate()
        self.directory.write_evaluation(evaluation)
        self.directory.log({"update": update, evaluation["split"]: evaluation["row"]})
        self.experiment.evaluated(evaluation)

    def on_pictures_due(self, update: int) -> None:
        """Draw the images of the current model."""
        self.directory.check_there()
        _draw(self.experiment, self.directory)

    def on_checkpoint_due(self, update: int) -> None:
        """Write a checkpoint and the report."""
        _save(self.experiment.trainer, self.directory)


def _save(trainer: Trainer, directory: RunDirectory) -> None:
    """Write a checkpoint and the report. Raises: VqtkError, before it writes, if the last losses are not finite."""
    directory.check_there()
    trainer.check_losses()
    directory.save(trainer)
    write_report(directory.path)


def _draw(experiment: Experiment, directory: RunDirectory) -> None:
    """Write the images of the current model, and pass their files to the callbacks."""
    update = experiment.trainer.done
    experiment.picture(directory.images, update)
    end = f"_{update:08d}"
    files = {path.stem.removesuffix(end): path for path in sorted(directory.images.glob(f"*{end}.*"))}
    for callback in experiment.callbacks:
        callback.on_images(update, files)


def _finish(experiment: Experiment, directory: RunDirectory) -> None:
    trainer, test = experiment.trainer, experiment.splits.test
    directory.check_there()
    _record_skipped(experiment, directory)
    evaluation = _evaluate_at_the_end(experiment, directory)
    _draw(experiment, directory)
    directory.write_summary(
        {
            "updates": trainer.done,
            "train_s": round(trainer.seconds, 1),
            "peak_memory_mb": round(peak_memory_mb(experiment.device)),
            "test_items": evaluation["items"],
            "test_is_subset": evaluation["items"] < len(test),
            "test": evaluation["row"],
            "stages": evaluation["stages"],
        }
    )
    if are_worth_it([experiment.recipe], trainer.model, experiment.splits):
        experiment.say("Computing references without a network: K-means of pixels, and R(D) of a Gaussian.")
        keep = directory.path / REFERENCES_FILE
        references(trainer.model, experiment.splits, seed=experiment.recipe.seed, keep=keep)
    write_report(directory.path)


def _evaluate_at_the_end(experiment: Experiment, directory: RunDirectory) -> dict[str, Any]:
    """Evaluate the fixed subset, to complete its curve, and then the final test examples; return their metrics."""
    update = experiment.trainer.done
    found = experiment.evaluate()
    experiment.evaluated(found)
    row = {"update": update, found["split"]: found["row"], "end": True}
    if experiment.ends_with_more:
        experiment.say(f"Evaluating {len(experiment.final):,} test examples …")
        if found["split"] == "test":
            row["subset"] = found["row"]
        found = experiment.evaluate(experiment.final)
        experiment.evaluated(found)
        row["test"] = found["row"]
    directory.log(row)
    directory.write_evaluation(found)
    return found


def _record_skipped(experiment: Experiment, directory: RunDirectory) -> None:
    """Report the damaged files that training skipped, and record them in the manifest."""
    recorded = directory.manifest()["data"]
    skipped = experiment.splits.train.skipped + experiment.splits.test.skipped
    if len(skipped) > recorded.get("skipped", {}).get("count", 0):
        experiment.say(f"{len(skipped)} damaged files were skipped, the first of them {skipped[0]}.")
        directory.write_manifest({"data": {**recorded, "skipped": {"count": len(skipped), "first": skipped[:10]}}})
