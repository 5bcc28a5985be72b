"""Train an experiment, and record it in its run directory: from the first update to the summary."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vqtk.callbacks import Callback, Started
from vqtk.evaluate.references import REFERENCES_FILE, are_worth_it, references
from vqtk.io.run_files import resumable
from vqtk.report.page import write_report
from vqtk.runs.data import require_same
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.failure import failure
from vqtk.training.execution import peak_memory_mb
from vqtk.training.loop import Trainer, training_loop


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
        return _train_as_follower(experiment, directory)
    directory.sweep()
    for line in trainer.execution.notes:
        experiment.say(line)
    starts_random = trainer.done == 0 and not experiment.at_centres and "from" not in directory.manifest()
    if trainer.settings.init == "kmeans" and starts_random:
        experiment.say("Computing the centres of the training examples, at which the model starts …")
        experiment.start_at_centres()
    finished, recording = False, _Recording(experiment, directory)
    try:
        _copy_from_leader(experiment)
        _start(experiment, directory, recording)
        callbacks = [*experiment.callbacks, recording]
        finished = training_loop(trainer, experiment.splits.train, directory.log, callbacks)
        _share_skipped(experiment)
        _save(trainer, directory)
        directory.finish(trainer)
        if finished:
            _finish(experiment, directory)
    except Exception as error:
        explained, advice = failure(error, trainer, directory, manifest=experiment.manifest, again=again)
        if explained:
            raise explained from error
        experiment.say(advice)
        raise
    finally:
        for callback in experiment.callbacks:
            callback.on_end(finished)
    return finished


def _start(experiment: Experiment, directory: RunDirectory, recording: _Recording) -> None:
    """Tell the callbacks that the run starts, and evaluate if the run was stopped when an evaluation was due."""
    done, settings = experiment.trainer.done, experiment.recipe.train
    manifest = directory.manifest() or experiment.manifest()
    started = Started(directory.path, experiment.recipe, manifest, experiment.trainer.model, done, experiment.say)
    for callback in experiment.callbacks:
        callback.on_start(started)
    due = 0 < done < settings.updates and done % settings.evaluate_every == 0 and not directory.has_tested(done)
    if experiment.trainer.processes.of_first(due):
        recording.on_evaluation_due(done)


# ── several processes ────────────────────────────────────────────────────────────────────────────


def _copy_from_leader(experiment: Experiment) -> None:
    """Give all processes the state of the one that leads. Raises: DataError if one of them has other data."""
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


def _train_as_follower(experiment: Experiment, directory: RunDirectory) -> bool:
    """Train and evaluate with the process that leads; return whether all updates are done."""
    processes, following = experiment.trainer.processes, _Following(experiment, directory)
    _copy_from_leader(experiment)
    if processes.of_first(False):  # What the leader passes in `_start`: whether an evaluation is due.
        experiment.evaluate()
    callbacks = [*experiment.callbacks, following]
    finished = training_loop(experiment.trainer, experiment.splits.train, lambda row: None, callbacks)
    _share_skipped(experiment)
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


def _share_skipped(experiment: Experiment) -> None:
    """Add the damaged files that other processes skipped to those of this one."""
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
        self.experiment.tell(evaluation)

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
    """Evaluate, draw, and write the summary, the references and the report."""
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
    experiment.tell(found)
    row = {"update": update, found["split"]: found["row"], "end": True}
    if experiment.ends_with_more:
        experiment.say(f"Evaluating {len(experiment.final):,} test examples …")
        if found["split"] == "test":  # `test` will hold the final metrics: the curve's last point gets another key.
            row["subset"] = found["row"]
        found = experiment.evaluate(experiment.final)
        experiment.tell(found)
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
