"""The references without a network, beside a comparison's rate–distortion curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vqtk.ablate.cells import Plan
from vqtk.ablate.collect import Variant
from vqtk.datasets import data_root
from vqtk.evaluate.references import are_worth_it, kept, references
from vqtk.recipe.build import build_dataset, build_model
from vqtk.train.run_data import own_splits
from vqtk.train.run_directory import RunDirectory

FILE = "references.json"


def drawn(variants: Sequence[Variant]) -> dict[str, Any] | None:
    """Return the references of the first run that keeps any, at its rates; None where the loss is not their error."""
    runs = [run for variant in variants for run in variant.runs.values()]
    if any(run.recipe.loss != "mse" for run in runs):
        return None
    found = next((found for run in runs if (found := kept(run.path / FILE))), None)
    return found.plain() if found else None


def compute(plan: Plan, folder: Path, data_dir: Path | None, say: Callable[[str], object]) -> None:
    """Compute them at the baseline's rates, into its first run, if they take little beside all the study's training.

    Raises: DataError if the data cannot be read.
    """
    baseline = next(cell for cell in plan.cells() if cell.variant.choices == plan.study.baseline)
    recipe, keep = baseline.variant.at(baseline.seed), folder / baseline.path / FILE
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
