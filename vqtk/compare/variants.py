"""What the runs of a variant measured, together."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import fmean, median

from vqtk.compare.collect import Run, Variant
from vqtk.compare.metrics import Span, finite, value_of
from vqtk.compare.result import CodeUsage, ComparedRun, ComparedStage, ComparedVariant, MeasuredCosts
from vqtk.compare.statistics import late_fall, mean_std
from vqtk.errors import VqtkError


def measured_variant(
    variant: Variant, metrics: Sequence[str], span: Span | None, *, curve: str, higher: bool
) -> ComparedVariant:
    """Return what the runs of a variant measured, without a difference or changes.

    Arguments:
        variant: its runs.
        metrics: what to compare by, and the other metrics to show.
        span: the rates between which areas are taken.
        curve: the metric that is plotted over updates.
        higher: whether a higher curve is better.
    """
    runs = list(variant.runs.values())
    metric, *others = metrics
    values = [value_of(run, metric, span) for run in runs]
    return ComparedVariant(
        name=variant.name,
        choices=variant.choices,
        seeds=list(variant.runs),
        result=mean_std(values),
        area=mean_std([value_of(run, "area", span) for run in runs]),
        also={name: mean_std([value_of(run, name, span) for run in runs]) for name in others},
        stages=_stages(runs),
        late_fall=_late_fall(runs, curve, higher=higher),
        usage=_usage(runs),
        costs=_costs(variant),
        runs=[
            ComparedRun(run.recipe.seed, run.path, value, _curve(run, curve))
            for run, value in zip(runs, values, strict=True)
        ],
        difference=None,
        changes=[],
    )


def _stages(runs: Sequence[Run]) -> list[ComparedStage]:
    stages = []
    for rows in zip(*(run.summary["stages"] for run in runs), strict=False):
        stage, bits = rows[0]["stage"], rows[0]["bits"]
        most = log(2) * bits / stage
        distortion = mean_std([finite(row["distortion"]) for row in rows])
        stages.append(ComparedStage(stage, bits, distortion, fmean(row["entropy_nats"] / most for row in rows)))
    return stages


def _usage(runs: Sequence[Run]) -> CodeUsage:
    stages = [row for run in runs for row in run.summary["stages"]]
    return CodeUsage(
        entropy_nats=fmean(row["entropy_nats"] for row in stages),
        used=fmean(row["used"] for row in stages),
        options=runs[0].manifest.get("options"),
    )


def _costs(variant: Variant) -> MeasuredCosts:
    runs = list(variant.runs.values())
    steps = [row["step_ms"] for run in runs for row in run.metrics if "step_ms" in row and row["update"] > 1]
    step_ms = median(steps) if steps else None
    flops = _flops(variant)
    return MeasuredCosts(
        bits=runs[0].manifest.get("bits_per_item"),
        parameters=runs[0].manifest.get("parameters"),
        encode_flops=flops.get("encode"),
        decode_flops=flops.get("decode"),
        updates=round(fmean(run.summary["updates"] for run in runs)),
        train_s=fmean(run.summary["train_s"] for run in runs),
        step_ms=step_ms,
        examples_per_s=1e3 * runs[0].recipe.examples_per_update / step_ms if step_ms else None,
        peak_memory_mb=max(run.summary["peak_memory_mb"] for run in runs),
    )


def _flops(variant: Variant) -> dict[str, int]:
    """Return the operations to encode and decode an example, or nothing if the model cannot be built without data."""
    from vqtk.evaluate.profile import flops

    try:
        return flops(variant.recipe)
    except (VqtkError, NotImplementedError):
        return {}


def _curve(run: Run, metric: str) -> list[tuple[int, float]]:
    """Return a test metric over updates, from evaluations on the same test examples as the first."""
    rows = [(row["update"], row.get("subset", row["test"])) for row in run.metrics if isinstance(row.get("test"), dict)]
    examples = rows[0][1].get("items") if rows else None
    values = [(update, finite(test.get(metric))) for update, test in rows if test.get("items") == examples]
    return [(update, value) for update, value in values if value is not None]


def _late_fall(runs: Sequence[Run], metric: str, *, higher: bool) -> float | None:
    """Return by what part the metric improved over the last fifth of the updates: the mean over seeds.

    None if the curve of any run is too short, or does not reach the end of the run.
    """
    falls = []
    for run in runs:
        curve = _curve(run, metric)
        ends = bool(curve) and curve[-1][0] == run.summary["updates"]
        falls.append(late_fall(*zip(*curve, strict=True)) if ends else None)
    known = [fall for fall in falls if fall is not None]
    if len(known) < len(falls):
        return None
    return -fmean(known) if higher else fmean(known)
