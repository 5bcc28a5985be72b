"""All metrics of `vqtk eval` as one tree of JSON values, from which its table is printed and `eval.json` written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Splits, fixed_subset
from vqtk.errors import DataError
from vqtk.evaluate.evaluation import Evaluation, Track, encode_all, evaluate, untracked
from vqtk.evaluate.probe import labels_of, probe
from vqtk.evaluate.quality import Quality, quality
from vqtk.metrics import (
    CurveMetric,
    Metric,
    ReconstructionMetric,
    Retrieval,
    RetrievalMetric,
    SampleMetric,
    retrieval,
    retrieval_metrics,
)
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
        metrics: what to measure besides the routine metrics, by name.
    """

    items: int | None = None
    batch: int | None = None
    probe: bool = False
    probe_items: int | None = None
    quality: bool = False
    search: str | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)


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
    if asked.probe:
        known = [labels_of(train, torch.arange(len(train)), "train"), labels_of(test, items, "test")]
    besides: dict[str, Any] = {}
    sampled = _sampled(model, recipe, splits, asked.metrics, items=items, always=asked.quality, track=track)
    if sampled:
        besides["quality"] = sampled.plain()
    others = of_reconstructions(asked.metrics)
    measured = evaluate(model, test, items=items, batch=asked.batch, searched=True, others=others, track=track)
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
            **measured.reached,
            **retrieval_metrics(model, splits, items, measured.codes),
            **_values(asked.metrics, model, splits, measured, items=items, sampled=sampled),
        },
        "stages": measured.stages(),
        "likelihood": _likelihood(loss, model),
        "rates": measured.rates.plain() if measured.rates else None,
        **besides,
        "data": splits.fingerprint(),
        "environment": environment(model.device),
    }


def measured_by_name(
    model: Model,
    recipe: Recipe,
    splits: Splits,
    wanted: Mapping[str, Metric],
    *,
    items: Tensor,
    track: Track = untracked,
) -> tuple[dict[str, float | None], Quality | None]:
    """Measure a model by named metrics on test examples (indices), as its own evaluations do; codes are greedy.

    Return the values by name, and what compared samples, if a metric is of samples.

    Raises: DataError if the data lack what a metric needs.
    """
    sampled = _sampled(model, recipe, splits, wanted, items=items, track=track)
    if all(isinstance(metric, SampleMetric) for metric in wanted.values()):  # Also if there is none.
        return dict(sampled.distances) if sampled else {}, sampled
    found = evaluate(model, splits.test, items=items, others=of_reconstructions(wanted), track=track)
    return _values(wanted, model, splits, found, items=items, sampled=sampled), sampled


def of_reconstructions(wanted: Mapping[str, Metric]) -> dict[str, ReconstructionMetric]:
    """Return the metrics that compare examples with reconstructions."""
    return {name: metric for name, metric in wanted.items() if isinstance(metric, ReconstructionMetric)}


def _sampled(
    model: Model,
    recipe: Recipe,
    splits: Splits,
    wanted: Mapping[str, Metric],
    *,
    items: Tensor,
    always: bool = False,
    track: Track,
) -> Quality | None:
    """Compare samples with test images if a metric needs that, or `always`."""
    others = {name: metric for name, metric in wanted.items() if isinstance(metric, SampleMetric)}
    if not (others or always):
        return None
    name, seed = recipe.data.entry.name, recipe.seed
    return quality(model, splits, items=items, name=name, seed=seed, others=others, track=track)


def _values(
    wanted: Mapping[str, Metric],
    model: Model,
    splits: Splits,
    found: Evaluation,
    *,
    items: Tensor,
    sampled: Quality | None,
) -> dict[str, float | None]:
    """Return the value of each metric. Raises: DataError for a metric of a search if the data have no queries."""
    values: dict[str, float | None] = {}
    searched: Retrieval | None = None
    for name, metric in wanted.items():
        if isinstance(metric, ReconstructionMetric):
            values[name] = found.reached[name]
        elif isinstance(metric, SampleMetric):
            assert sampled
            values[name] = sampled.distances[name]
        elif isinstance(metric, CurveMetric):
            known = [(row["bits"], row["distortion"]) for row in found.stages() if row["distortion"] is not None]
            bits, distortion = zip(*known, strict=True)
            values[name] = metric.measure(bits, distortion, low=bits[0], high=bits[-1])
        elif isinstance(metric, RetrievalMetric):
            searched = searched or retrieval(model, splits, items, found.codes)
            if searched is None:
                raise DataError(f"the metric {name} needs queries, and the data in {splits.source} have none.")
            values[name] = metric.measure(searched)
        else:
            values[name] = found.value(metric)
    return values


def _likelihood(loss: str | None, model: Model) -> str:
    """Return in words how the loss relates to a likelihood."""
    if model.loss.normalised:
        return (
            "The bound is on the negative log-likelihood of an example: distortion × values + stages × ln options, "
            "with the uniform prior over codes."
        )
    values = "undequantised pixels" if model.data.kind == "image" else model.data.kind
    reason = f": a negative log density on {values} is unbounded below" if loss == "gaussian" else ""
    return f"The loss is a reconstruction term, not a bound on a likelihood{reason}."
