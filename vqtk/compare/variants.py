"""Variants: what their runs measured, and the terms that they must share to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import fmean, median
from typing import Any

from vqtk.compare.collect import Collected, FinishedRun, Variant
from vqtk.compare.metrics import Span, finite, value_of
from vqtk.compare.result import CodeUsage, ComparedRun, ComparedStage, ComparedVariant, MeasuredCosts
from vqtk.compare.statistics import late_fall, mean_std
from vqtk.errors import VqtkError
from vqtk.io.run_files import watched_of
from vqtk.recipe.build import build_dataset
from vqtk.recipe.node import Node
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.show import inline


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


def _stages(runs: Sequence[FinishedRun]) -> list[ComparedStage]:
    stages = []
    for rows in zip(*(run.summary["stages"] for run in runs), strict=False):
        stage, bits = rows[0]["stage"], rows[0]["bits"]
        most = log(2) * bits / stage
        distortion = mean_std([finite(row["distortion"]) for row in rows])
        stages.append(ComparedStage(stage, bits, distortion, fmean(row["entropy_nats"] / most for row in rows)))
    return stages


def _usage(runs: Sequence[FinishedRun]) -> CodeUsage:
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


def _curve(run: FinishedRun, metric: str) -> list[tuple[int, float]]:
    """Return a metric over updates, from evaluations on the same test or validation examples as the first."""
    rows = [(row["update"], found) for row in run.metrics if (found := watched_of(row))]
    examples = rows[0][1].get("items") if rows else None
    values = [(update, finite(test.get(metric))) for update, test in rows if test.get("items") == examples]
    return [(update, value) for update, value in values if value is not None]


def _late_fall(runs: Sequence[FinishedRun], metric: str, *, higher: bool) -> float | None:
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


_Describe = Callable[[FinishedRun], str | None]


def differing(collected: Collected) -> list[str]:
    """Return a sentence for each term that differs between runs.

    If a study holds examples, operations or time equal, the number of updates may differ.
    """
    found = [_differing(what, describe, collected.variants) for what, describe in _terms(collected.study or {}).items()]
    return [sentence for sentence in found if sentence]


def require_equal(sentences: Sequence[str]) -> None:
    """Raise VqtkError if terms differ."""
    if sentences:
        raise VqtkError(
            f"these runs cannot be compared on equal terms. {' '.join(sentences)} Compare runs of the same terms, or "
            "give --unequal to compare them anyway; every output is then marked."
        )


def _terms(study: dict[str, Any]) -> dict[str, _Describe]:
    """Return the terms that have to be equal, each with what describes that of a run."""
    terms: dict[str, _Describe] = {
        "Data": _data,
        "Test examples": _tested,
        "Features of samples": _features,
    }
    equal = study.get("terms", {}).get("equal")
    if equal in ("items", "flops", "time"):
        return terms
    if equal == "updates":
        return {"Updates": lambda run: f"{run.summary['updates']:,}", **terms}
    return {"Updates × examples per update": _trained, **terms}


def _trained(run: FinishedRun) -> str:
    return f"{run.summary['updates']:,} × {run.recipe.examples_per_update:,}"


def _data(run: FinishedRun) -> str:
    data: dict[str, Any] = run.manifest["data"]
    counts = f"{data.get('train_items', 0):,} + {data.get('test_items', 0):,} examples"
    return f"{counts}, SHA-256 {str(data.get('sha256'))[:8]}"


def _tested(run: FinishedRun) -> str:
    return f"{run.summary['test_items']:,}"


def _features(run: FinishedRun) -> str | None:
    """Return the features in which the run's samples were compared, if they were."""
    features: str | None = run.summary.get("quality", {}).get("features")
    return features


def units_of(recipe: Recipe) -> str:
    """Return the units of a recipe's loss as text: the loss with its settings, and the training units."""
    loss = recipe.plain()["model"].get("loss")
    text = recipe.loss or "none"
    if isinstance(loss, dict) and len(loss) > 1:
        text = inline(Node.of(loss, ""))
    spec = build_dataset(recipe).spec
    return text if (spec.mean, spec.std) == (0.0, 1.0) else f"{text} in units of (x − {spec.mean:g}) / {spec.std:g}"


def differing_units(variants: Sequence[Variant]) -> str:
    """Return a sentence if the losses of the variants have different units, otherwise an empty string."""
    return _differing("Losses", lambda run: units_of(run.recipe), variants)


def _differing(what: str, describe: _Describe, variants: Sequence[Variant]) -> str:
    """Return a sentence that lists which variants have which value, or an empty string if there is at most one."""
    having: dict[str, list[str]] = {}
    for variant in variants:
        for run in variant.runs.values():
            text = describe(run)
            if text is None:
                continue
            names = having.setdefault(text, [])
            if variant.name not in names:
                names.append(variant.name)
    if len(having) <= 1:
        return ""
    return f"{what} differ: " + "; ".join(f"{value} ({_some(names)})" for value, names in having.items()) + "."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
