"""Runs a study: tries out its variants, reads its data, estimates costs, has its runs trained, records their states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from vqtk.datasets import data_root
from vqtk.errors import RecipeError, VqtkError, nearest
from vqtk.evaluate.profile import total_parameters
from vqtk.evaluate.quality import features_at_hand
from vqtk.evaluate.references import REFERENCES_FILE, are_worth_it, kept, references
from vqtk.files import RUN, is_locked
from vqtk.recipe.build import Validation, build_dataset, build_model, fingerprint, validate
from vqtk.recipe.node import shown_path
from vqtk.runs.budget import step_s, training_flops
from vqtk.runs.data import own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.study.executors import Local, Ray
from vqtk.study.plan import Plan, PlannedVariant, to_run
from vqtk.study.slurm import Slurm
from vqtk.study.state import STOP, Event, Executor, Settings, State, read_state, record_failure, write_state
from vqtk.study.study import Study
from vqtk.study.worker import wants_samples

STEPS = 5
"""The updates by which the time of a run is estimated."""


class Board(Protocol):
    """Shows how a study goes; it ends the study by setting `stop`."""

    stop: bool

    def happened(self, event: Event) -> None:
        """A run was started or has ended."""

    def tick(self) -> None:
        """Time has passed."""

    def say(self, line: str) -> None:
        """Show a line to the user."""


EXECUTORS = ["local", "ray", "slurm"]


def check_executor(name: str, given: Sequence[str] = ()) -> None:
    """Raise VqtkError unless there is an executor of this name, with settings if any are `given`."""
    if name not in EXECUTORS:
        raise VqtkError(f"--executor {name!r}: {nearest(name, EXECUTORS)}Expected {', '.join(EXECUTORS)}.")
    if given and name == "local":
        raise VqtkError(f"--set {given[0]}: the executor local has no settings. Name another with --executor.")


def make_executor(name: str, settings: Settings, study: Study, folder: Path, *, workers: int | None) -> Executor:
    """Return the executor of a name, which trains the runs in a study's folder. Raises: VqtkError if it is not there.

    `workers` is how many runs it trains at once at most; by default, as many as there is room for.
    """
    check_executor(name)
    if name == "slurm":
        return Slurm(settings, study.executors.slurm, folder, workers=workers)
    if name == "ray":
        return Ray(settings, study.executors.ray, workers=workers)
    return Local(settings, workers=workers)


def run_study(plan: Plan, folder: Path, executor: Executor, board: Board, *, retry: bool) -> list[State]:
    """Do the runs that are left, and return the states of all. When `board` stops it, each ends with a checkpoint."""
    request, stopping = folder / STOP, False
    request.unlink(missing_ok=True)
    for run in to_run(plan, folder, retry=retry):
        path = folder / run.path
        if not is_locked(path / RUN):  # A job of a study that was killed goes on.
            write_state(path, replace(read_state(path), state="waiting", error=None))
        executor.submit(path)
    try:
        for event in executor.events():
            if event is None:
                board.tick()
            else:
                record_failure(event)
                board.happened(event)
            if board.stop and not stopping:
                stopping = True
                request.touch()
                executor.stop()
                board.say("Stopping: each run ends with a checkpoint. Ctrl-C again ends them at once.")
    except KeyboardInterrupt:
        executor.kill()
        raise
    finally:
        request.unlink(missing_ok=True)
    return [read_state(folder / run.path) for run in plan.runs()]


def try_out(plan: Plan) -> Iterator[tuple[PlannedVariant, Validation, list[str]]]:
    """Build each variant on the CPU and try it; yield it with a warning if an earlier one has the same model.

    Raises: RecipeError, with the name of the variant, if one cannot be trained.
    """
    seen: dict[str, PlannedVariant] = {}
    for variant in plan.variants:
        where = f"{shown_path(plan.study.path)}: the variant {variant.name!r}"
        try:
            tried = validate(variant.recipe)
            other = seen.setdefault(fingerprint(variant.recipe), variant)
        except VqtkError as error:
            raise RecipeError(f"{where}: {error}") from None
        same = other is not variant and other.recipe.plain()["model"] != variant.recipe.plain()["model"]
        warning = f"{where} differs from {other.name!r} in settings of the model, but has the same one. Are they used?"
        yield variant, tried, [warning] if same else []


def read_data(plan: Plan, data_dir: Path | None, say: Callable[[str], object]) -> None:
    """Read each data set of a study once, so that all of its files are there when runs start.

    Raises: DataError if one cannot be read, or if there are no features to compare samples in.
    """
    samples, seen = wants_samples(metric.name for metric in plan.study.metrics), []
    for variant in plan.variants:
        data = variant.recipe.plain()["data"]
        if data not in seen:
            seen.append(data)
            found = build_dataset(variant.recipe)
            splits = found.splits(data_root(data_dir, of=found))
            if splits.note:
                say(splits.note)
            if samples:
                features_at_hand(found.spec, splits, name=variant.recipe.data.entry.name, device=torch.device("cpu"))


@dataclass(frozen=True)
class VariantCost:
    """What a run of a variant costs: `flops` of training on one example, `seconds` of all updates."""

    variant: PlannedVariant
    parameters: int
    bits: float
    flops: int
    updates: int
    examples: int
    seconds: float


def variant_cost(variant: PlannedVariant, device: torch.device) -> VariantCost:
    """Return what a run of a variant costs, its time estimated from a few updates on synthetic examples."""
    recipe = variant.recipe
    model = build_model(recipe, device="meta")
    updates = recipe.train.updates
    return VariantCost(
        variant=variant,
        parameters=total_parameters(model),
        bits=model.bits,
        flops=training_flops(recipe),
        updates=updates,
        examples=updates * recipe.examples_per_update,
        seconds=updates * step_s(recipe, device, steps=STEPS),
    )


def compute_references(plan: Plan, folder: Path, data_dir: Path | None, say: Callable[[str], object]) -> None:
    """Compute the references at the baseline's rates and keep them with its first run, if training takes far longer.

    Raises: DataError if the data cannot be read.
    """
    baseline = next(run for run in plan.runs() if run.variant.choices == plan.study.baseline)
    recipe, keep = baseline.variant.at(baseline.seed), folder / baseline.path / REFERENCES_FILE
    if kept(keep) or recipe.loss != "mse":
        return
    run, model, dataset = RunDirectory(keep.parent), build_model(recipe), build_dataset(recipe)
    if run.manifest():
        splits = own_splits(recipe, run, data_dir=data_dir, say=say)
    else:
        splits = dataset.splits(data_root(data_dir, of=dataset))
    if are_worth_it([run.variant.recipe for run in plan.runs()], model, splits):
        say(
            "Computing references without a network, to plot beside the variants: K-means of pixels, a Gaussian's R(D)."
        )
        references(model, splits, seed=recipe.seed, keep=keep)
