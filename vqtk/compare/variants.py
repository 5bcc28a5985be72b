"""Variants: what their runs measured, how their recipes differ, and what they must share to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import fmean, median
from typing import Any

from vqtk.compare.collect import Collected, Run, Variant
from vqtk.compare.metrics import Span, finite, value_of
from vqtk.compare.statistics import late_fall, spread
from vqtk.errors import VqtkError
from vqtk.recipe.build import build_dataset
from vqtk.recipe.node import Node
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.show import inline


def variant_measurements(
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
        "items_per_s": 1e3 * runs[0].recipe.examples_per_update / step_ms if step_ms else None,
        "peak_memory_mb": max(run.summary["peak_memory_mb"] for run in runs),
    }


def _flops(variant: Variant) -> dict[str, int] | None:
    """Return the operations of encoding and decoding an item, or None where the model cannot be built without data."""
    from vqtk.evaluate.profile import flops

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


_Said = Callable[[Run], str | None]


def differing(collected: Collected) -> list[str]:
    """Return a sentence for each term that is not the same for all runs.

    Where a study sets items, operations or time equal, that stands in place of the number of updates.
    """
    found = [_differing(what, of, collected.variants) for what, of in _terms(collected.study or {}).items()]
    return [sentence for sentence in found if sentence]


def require_equal(sentences: Sequence[str]) -> None:
    """Raise VqtkError if terms differ."""
    if sentences:
        raise VqtkError(
            f"these runs cannot be compared on equal terms. {' '.join(sentences)} Compare runs of the same terms, or "
            "give --unequal to compare them all the same; every output is then marked."
        )


def _terms(study: dict[str, Any]) -> dict[str, _Said]:
    """Return the terms to hold equal, each with how a run's is said."""
    terms: dict[str, _Said] = {
        "Data": _data,
        "Test items": _tested,
        "Features of samples": _features,
    }
    equal = study.get("terms", {}).get("equal")
    if equal in ("items", "flops", "time"):
        return terms
    if equal == "updates":
        return {"Updates": lambda run: f"{run.summary['updates']:,}", **terms}
    return {"Updates × items an update": _trained, **terms}


def _trained(run: Run) -> str:
    return f"{run.summary['updates']:,} × {run.recipe.examples_per_update:,}"


def _data(run: Run) -> str:
    data: dict[str, Any] = run.manifest["data"]
    counts = f"{data.get('train_items', 0):,} + {data.get('test_items', 0):,} items"
    return f"{counts}, SHA-256 {str(data.get('sha256'))[:8]}"


def _tested(run: Run) -> str:
    return f"{run.summary['test_items']:,}"


def _features(run: Run) -> str | None:
    """Return what the run's samples were compared in, if they were."""
    features: str | None = run.summary.get("quality", {}).get("features")
    return features


def units_of(recipe: Recipe) -> str:
    """Return in words what a recipe's loss is measured in: the loss with its settings, and the training units."""
    loss = recipe.plain()["model"].get("loss")
    said = recipe.loss or "none"
    if isinstance(loss, dict) and len(loss) > 1:
        said = inline(Node.of(loss, ""))
    spec = build_dataset(recipe).spec
    return said if (spec.mean, spec.std) == (0.0, 1.0) else f"{said} in units of (x − {spec.mean:g}) / {spec.std:g}"


def differing_units(variants: Sequence[Variant]) -> str:
    """Return a sentence if the losses of the variants are not in the same units, otherwise an empty string."""
    return _differing("Losses", lambda run: units_of(run.recipe), variants)


def _differing(what: str, of: _Said, variants: Sequence[Variant]) -> str:
    """Return a sentence that says who has which, or an empty string if all that have any have the same."""
    having: dict[str, list[str]] = {}
    for variant in variants:
        for run in variant.runs.values():
            said = of(run)
            if said is None:
                continue
            names = having.setdefault(said, [])
            if variant.name not in names:
                names.append(variant.name)
    if len(having) <= 1:
        return ""
    return f"{what} differ: " + "; ".join(f"{value} ({_some(names)})" for value, names in having.items()) + "."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
