"""The figures of one variant: over its seeds, stage by stage, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import fmean, median, stdev
from typing import Any

from vqtk.ablate.collect import Run, Variant
from vqtk.ablate.metric import Span, finite, value_of
from vqtk.ablate.statistics import late_fall
from vqtk.ablate.terms import items_per_update
from vqtk.errors import VqtkError

Spread = dict[str, Any]
"""A mean, a standard deviation, None of one value, and how many of the values are `missing`."""


def measured(
    variant: Variant, metrics: Sequence[str], span: Span | None, *, curve: str, higher: bool
) -> dict[str, Any]:
    """Return what is known of a variant alone, by the first of the metrics and beside it by the others.

    `curve` is the figure to draw over updates; docs/compare.md says what the keys hold.
    """
    runs = list(variant.runs.values())
    main, *others = metrics
    values = [value_of(run, main, span) for run in runs]
    return {
        "name": variant.name,
        "choices": variant.choices,
        "n": len(runs),
        "seeds": list(variant.runs),
        **spread(values),
        "area": spread([value_of(run, "area", span) for run in runs]),
        "also": {name: spread([value_of(run, name, span) for run in runs]) for name in others},
        "stages": _stages(runs),
        "late_fall": _late_fall(runs, curve, higher=higher),
        **_usage(runs),
        **_costs(variant),
        "runs": [
            {"seed": run.recipe.seed, "path": str(run.path), "value": value, "curve": _curve(run, curve)}
            for run, value in zip(runs, values, strict=True)
        ],
    }


def spread(values: Sequence[float | None]) -> Spread:
    """Return the mean and the standard deviation (n − 1) of the values that are known, and how many are not."""
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "missing": len(values) - len(known),
    }


def _stages(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row a stage: bits, the distortion over seeds, and the code's entropy as a share of its most."""
    rows = []
    for stage in zip(*(run.summary["stages"] for run in runs), strict=False):
        most = log(2) * stage[0]["bits"] / stage[0]["stage"]
        entropies = [row["entropy_nats"] / most for row in stage]
        distortion = spread([finite(row["distortion"]) for row in stage])
        rows.append({"stage": stage[0]["stage"], "bits": stage[0]["bits"], **distortion, "entropy": fmean(entropies)})
    return rows


def _usage(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the mean entropy of a stage's code in nats, the options that a stage used on average, and all there are.

    All figures are means over stages, then seeds.
    """
    stages = [row for run in runs for row in run.summary["stages"]]
    return {
        "entropy_nats": fmean(row["entropy_nats"] for row in stages),
        "used": fmean(row["used"] for row in stages),
        "options": runs[0].manifest.get("options"),
    }


def _costs(variant: Variant) -> dict[str, Any]:
    """Return rate, parameters, operations an item, times (medians of the logged steps) and memory."""
    runs = list(variant.runs.values())
    steps = [row["step_ms"] for run in runs for row in run.metrics if "step_ms" in row and row["update"] > 1]
    step_ms = median(steps) if steps else None
    return {
        "bits": runs[0].manifest.get("bits_per_item"),
        "parameters": runs[0].manifest.get("parameters"),
        "flops": _flops(variant),
        "updates": round(fmean(run.summary["updates"] for run in runs)),
        "train_s": fmean(run.summary["train_s"] for run in runs),
        "step_ms": step_ms,
        "items_per_s": 1e3 * items_per_update(runs[0]) / step_ms if step_ms else None,
        "peak_memory_mb": max(run.summary["peak_memory_mb"] for run in runs),
    }


def _flops(variant: Variant) -> dict[str, int] | None:
    """Return the operations of encoding and decoding an item, or None where the model cannot be built without data."""
    from vqtk.evaluate.cost import flops

    try:
        return flops(variant.recipe)
    except (VqtkError, NotImplementedError):
        return None


def _curve(run: Run, figure: str) -> list[tuple[int, float]]:
    """Return a figure on the test items over updates; only evaluations on the items of the first one."""
    rows = [(row["update"], row.get("subset", row["test"])) for row in run.metrics if isinstance(row.get("test"), dict)]
    items = rows[0][1].get("items") if rows else None
    values = [(update, finite(test.get(figure))) for update, test in rows if test.get("items") == items]
    return [(update, value) for update, value in values if value is not None]


def _late_fall(runs: Sequence[Run], figure: str, *, higher: bool) -> float | None:
    """Return by what part the figure still got better over the last fifth of the updates: the mean over seeds.

    None if any run's curve does not reach from there to the run's end.
    """
    falls = []
    for run in runs:
        curve = _curve(run, figure)
        ends = bool(curve) and curve[-1][0] == run.summary["updates"]
        falls.append(late_fall(*zip(*curve, strict=True)) if ends else None)
    known = [fall for fall in falls if fall is not None]
    if len(known) < len(falls):
        return None
    return -fmean(known) if higher else fmean(known)
