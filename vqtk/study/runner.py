"""A study, run: its data read, its costs estimated, its runs handed to an executor, their states recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from vqtk.datasets import data_root
from vqtk.evaluate.profile import total_parameters
from vqtk.evaluate.quality import features_at_hand
from vqtk.evaluate.references import REFERENCES_FILE, are_worth_it, kept, references
from vqtk.recipe.build import build_dataset, build_model
from vqtk.runs.data import own_splits
from vqtk.runs.directory import RunDirectory
from vqtk.study.equal import examples_an_update, step_s, training_flops
from vqtk.study.plan import Plan, PlannedVariant, to_run
from vqtk.study.protocol import STOP, Event, Executor, State, read_state, write_state
from vqtk.study.worker import wants_samples

STEPS = 5
"""Updates that an estimate of time is made by."""


class Board(Protocol):
    """Who is told how a study goes; one that sets `stop` ends it."""

    stop: bool

    def happened(self, event: Event) -> None:
        """A cell was begun or has ended."""

    def tick(self) -> None:
        """Time has passed."""

    def say(self, line: str) -> None:
        """There is something to tell the user."""


def run_study(plan: Plan, folder: Path, executor: Executor, board: Board, *, retry: bool) -> list[State]:
    """Run the cells that are left, and return the states of all; asked to stop, have each end with a checkpoint."""
    request, stopping = folder / STOP, False
    request.unlink(missing_ok=True)
    for cell in to_run(plan, folder, retry=retry):
        path = folder / cell.path
        write_state(path, replace(read_state(path), state="waiting", error=None))
        executor.submit(path)
    try:
        for event in executor.events():
            if event is None:
                board.tick()
            else:
                _settle(event)
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
    return [read_state(folder / cell.path) for cell in plan.cells()]


def _settle(event: Event) -> None:
    """Record the failure of a worker that ended without saying how."""
    state = read_state(event.cell)
    if event.what == "ended" and event.error and state.state in ("waiting", "running"):
        write_state(event.cell, replace(state, state="failed", error=event.error))


def read_data(plan: Plan, data_dir: Path | None, say: Callable[[str], object]) -> None:
    """Read each data set of a study once, so that its runs find it whole.

    Raises: DataError if one cannot be read, or the study asks for distances that its samples cannot have.
    """
    samples, seen = wants_samples(metric.name for metric in plan.study.metrics), []
    for variant in plan.variants:
        data = variant.recipe.plain()["data"]
        if data not in seen:
            seen.append(data)
            found = build_dataset(variant.recipe)
            splits = found.load(data_root(data_dir, of=found))
            if splits.note:
                say(splits.note)
            if samples:
                features_at_hand(found.spec, splits, name=variant.recipe.data.entry.name, device=torch.device("cpu"))


@dataclass(frozen=True)
class VariantCost:
    """What a run of a variant costs; `flops` are those of training on one item, `seconds` those of all its updates."""

    variant: PlannedVariant
    parameters: int
    bits: float
    flops: int
    updates: int
    items: int
    seconds: float


def variant_cost(variant: PlannedVariant, device: torch.device) -> VariantCost:
    """Return what a run of a variant costs, its time foretold from a few updates on synthetic items."""
    recipe = variant.recipe
    model = build_model(recipe, device="meta")
    updates = recipe.train.updates
    return VariantCost(
        variant=variant,
        parameters=total_parameters(model),
        bits=model.bits,
        flops=training_flops(recipe),
        updates=updates,
        items=updates * examples_an_update(recipe),
        seconds=updates * step_s(recipe, device, steps=STEPS),
    )


def compute_references(plan: Plan, folder: Path, data_dir: Path | None, say: Callable[[str], object]) -> None:
    """Compute the references at the baseline's rates into its first run, if they take little beside the training.

    Raises: DataError if the data cannot be read.
    """
    baseline = next(cell for cell in plan.cells() if cell.variant.choices == plan.study.baseline)
    recipe, keep = baseline.variant.at(baseline.seed), folder / baseline.path / REFERENCES_FILE
    if kept(keep) or recipe.loss != "mse":
        return
    run, model, dataset = RunDirectory(keep.parent), build_model(recipe), build_dataset(recipe)
    if run.manifest():
        splits = own_splits(recipe, run, data_dir=data_dir, say=say)
    else:
        splits = dataset.load(data_root(data_dir, of=dataset))
    if are_worth_it([cell.variant.recipe for cell in plan.cells()], model, splits):
        say("Computing what needs no network, to draw beside the variants: K-means of pixels, a Gaussian's R(D).")
        references(model, splits, seed=recipe.seed, keep=keep)
