"""What `vqtk eval` finds, as one tree of JSON values: the table is printed from it, and `eval.json` written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vqtk.datasets import Splits, fixed_subset
from vqtk.evaluate.evaluation import Track, encode_all, evaluate, untracked
from vqtk.evaluate.probe import labels_of, probe
from vqtk.evaluate.quality import quality
from vqtk.models import Model
from vqtk.process import environment, generator
from vqtk.recipe.recipe import Recipe


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be measured: on how many test items (all by default), so many at a time, and what besides."""

    items: int | None = None
    batch: int | None = None
    probe: bool = False
    probe_items: int | None = None
    quality: bool = False


def overview(
    model: Model,
    recipe: Recipe,
    splits: Splits,
    *,
    asked: EvaluationRequest = EvaluationRequest(),
    track: Track = untracked,
) -> dict[str, Any]:
    """Measure a model on its test split, and return all that was found as JSON values.

    Raises: DataError if what is asked for needs labels or images, and there are none.
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
        codes = encode_all(model, train, items=taken, batch=asked.batch, track=track, what="train items")
        pairs = (codes, known[0][taken]), (measured.codes, known[1])
        besides["probe"] = probe(*pairs, options=model.options, seed=recipe.seed, track=track).plain()
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
        "test": measured.row(),
        "stages": measured.stages(),
        "likelihood": _likelihood(loss, model),
        "rates": measured.rates.plain() if measured.rates else None,
        **besides,
        "data": splits.fingerprint(),
        "environment": environment(model.device),
    }


def _likelihood(loss: str | None, model: Model) -> str:
    """Return in words what the loss says of a likelihood."""
    if model.loss.normalised:
        return (
            "The bound is on the negative log-likelihood of an item: distortion × values + stages × ln options, codes "
            "under the uniform prior."
        )
    values = "undequantised pixels" if model.data.kind == "image" else model.data.kind
    reason = f": a density on {values} is unbounded below" if loss == "gaussian" else ""
    return f"The loss is a reconstruction term, no bound on a likelihood{reason}."
