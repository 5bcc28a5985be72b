"""All metrics of `vqtk eval` as one tree of JSON values, from which its table is printed and `eval.json` written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Splits, fixed_subset
from vqtk.evaluate.distortion import search_figures
from vqtk.evaluate.evaluation import Evaluation, Track, encode_all, evaluate, untracked
from vqtk.evaluate.probe import labels_of, probe
from vqtk.evaluate.quality import quality
from vqtk.models import Model
from vqtk.process import environment, generator
from vqtk.recipe.recipe import Recipe


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Arguments:
        items: the number of test examples; by default all.
        batch: the number of examples at a time.
        probe: whether to train classifiers on the codes.
        probe_items: the number of train examples for these; by default all.
        quality: whether to measure the quality of samples.
        search: what the model encodes by, if not by its recipe's search; recorded.
    """

    items: int | None = None
    batch: int | None = None
    probe: bool = False
    probe_items: int | None = None
    quality: bool = False
    search: str | None = None


def overview(
    model: Model,
    recipe: Recipe,
    splits: Splits,
    *,
    asked: EvaluationRequest = EvaluationRequest(),
    track: Track = untracked,
    further: Callable[[Evaluation, Tensor], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure a model on its test split, and return all metrics as JSON values.

    Arguments:
        model: the model.
        recipe: its recipe.
        splits: the data.
        asked: what to measure.
        track: shows the progress.
        further: returns more metrics, of the evaluation and the indices of its examples.

    Raises: DataError if a requested metric needs labels or images that the data do not have.
    """
    test, train = splits.test, splits.train
    items = fixed_subset(test, asked.items, recipe.seed) if asked.items else torch.arange(len(test))
    name = recipe.data.entry.name
    if asked.probe:
        known = [labels_of(train, torch.arange(len(train)), "train"), labels_of(test, items, "test")]
    besides: dict[str, Any] = {}
    if asked.quality:
        besides["quality"] = quality(model, splits, items=items, name=name, seed=recipe.seed, track=track).plain()
    measured = evaluate(model, test, items=items, batch=asked.batch, searched=True, track=track)
    if asked.probe:
        taken = torch.randperm(len(train), generator=generator(recipe.seed, "probe", "items"))[: asked.probe_items]
        codes = encode_all(model, train, items=taken, batch=asked.batch, track=track, what="train examples")
        pairs = (codes, known[0][taken]), (measured.codes, known[1])
        besides["probe"] = probe(*pairs, options=model.options, seed=recipe.seed, track=track).plain()
    if further:
        besides |= further(measured, items)
    loss = recipe.loss
    return {
        "name": recipe.name,
        "loss": loss,
        "kind": model.data.kind,
        "bits_per_item": model.bits,
        "items": len(items),
        "test_items": len(test),
        "is_subset": len(items) < len(test),
        "seed": recipe.seed,
        "search": asked.search,
        "test": {
            **measured.row(),
            **measured.shared(),
            **search_figures(model, splits, items, measured.codes),
        },
        "stages": measured.stages(),
        "likelihood": _likelihood(loss, model),
        "rates": measured.rates.plain() if measured.rates else None,
        **besides,
        "data": splits.fingerprint(),
        "environment": environment(model.device),
    }


def _likelihood(loss: str | None, model: Model) -> str:
    """Return in words how the loss relates to a likelihood."""
    if model.loss.normalised:
        return (
            "The bound is on the negative log-likelihood of an example: distortion × values + stages × ln options, "
            "with the uniform prior over codes."
        )
    values = "undequantised pixels" if model.data.kind == "image" else model.data.kind
    reason = f": a density on {values} is unbounded below" if loss == "gaussian" else ""
    return f"The loss is a reconstruction term, not a bound on a likelihood{reason}."
