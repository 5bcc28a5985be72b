"""A comparison of runs: what differs from the baseline, by how much, and whether it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

from vqtk.compare.collect import Collected, Run, Variant, collect, without_diverged
from vqtk.compare.metrics import BETTER, SHARED, Span, common_span, is_of_the_loss, require_known, value_of
from vqtk.compare.notes import notes, verdicts
from vqtk.compare.page import write_page
from vqtk.compare.statistics import LEVEL, holm, main_effects, paired
from vqtk.compare.tables import as_csv, as_markdown, as_tex
from vqtk.compare.variants import changes, differing, differing_units, require_equal, variant_measurements
from vqtk.errors import VqtkError, nearest
from vqtk.evaluate.references import REFERENCES_FILE, kept
from vqtk.files import write_text


@dataclass(frozen=True)
class ComparisonRequest:
    """How to compare. None: the study's own, otherwise the first variant, and `final`."""

    baseline: str | None = None
    metric: str | None = None
    higher: bool = False
    against: Literal["time", "flops"] = "time"
    unequal: bool = False


def compare(paths: Sequence[Path], asked: ComparisonRequest = ComparisonRequest()) -> dict[str, Any]:
    """Return the comparison of run directories, folders of runs and studies, as docs/compare.md describes it.

    Raises: VqtkError if there is nothing to compare, or the terms are unequal and that was not asked for.
    """
    collected = without_diverged(collect(paths))
    unequal = differing(collected)
    if not asked.unequal:
        require_equal(unequal)
    units = differing_units(collected.variants)
    metric, higher = _metric(collected, asked, units)
    baseline = _baseline(collected, asked)
    runs = [run for variant in collected.variants for run in variant.runs.values()]
    span = None if units else common_span(runs)
    require_known(metric, runs, span)
    in_order = [baseline, *(variant for variant in collected.variants if variant is not baseline)]
    study = collected.study or {}
    found: dict[str, Any] = {
        "name": study.get("name") or ", ".join(path.resolve().name for path in paths),
        "metric": metric,
        "better": "higher" if higher else "lower",
        "baseline": baseline.name,
        "also": _also(study, metric, units),
        "against": asked.against,
        "kind": runs[0].manifest.get("kind"),
        "terms": study.get("terms", {}).get("said"),
        "unequal": unequal,
        "units": units,
        "confidence": LEVEL,
        "span_bits": span,
        "curve": _curve(metric, runs, units),
        "references": kept_references(in_order),
        "effects": _effects(collected, metric, span),
        "left_out": [{"path": str(one.path), "why": one.why} for one in collected.left_out],
    }
    found["variants"] = _variants(in_order, found)
    return {**found, "verdicts": verdicts(found), "notes": notes(found, collected)}


def write(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Write comparison.json, .md, .csv and .tex and report.html into a folder; return their paths.

    Raises: VqtkError if they cannot be written.
    """
    texts = {
        "comparison.json": json.dumps(comparison, indent=2, ensure_ascii=False) + "\n",
        "comparison.md": as_markdown(comparison),
        "comparison.csv": as_csv(comparison),
        "comparison.tex": as_tex(comparison),
    }
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
        return [*(folder / name for name in texts), write_page(comparison, folder / "report.html")]
    except OSError as error:
        raise VqtkError(f"{folder}: the comparison cannot be written ({error}). Choose another with -o.") from None


def write_comparison(study: Path, asked: ComparisonRequest = ComparisonRequest()) -> dict[str, Any]:
    """Compare a study and write what was found into its directory. Raises: VqtkError, as `compare` does."""
    comparison = compare([study], asked)
    write(comparison, study)
    return comparison


def _metric(collected: Collected, asked: ComparisonRequest, units: str) -> tuple[str, bool]:
    """Return the metric, and whether higher is better; where losses differ in `units`, one that all of them share."""
    listed = (collected.study or {}).get("metrics") or []
    names = [one["name"] for one in listed] or ["final"]
    metric = asked.metric or names[0]
    if units and is_of_the_loss(metric):
        metric = next((name for name in names if not is_of_the_loss(name)), None) or _shared(collected, units)
        if asked.metric:
            raise VqtkError(
                f"--metric {asked.metric}: {units} A metric in units of the loss says nothing of who is better then. "
                f"Compare by one that all of them share: --metric {metric}."
            )
    higher = any(one.get("name") == metric and one.get("better") == "higher" for one in listed)
    return metric, asked.higher or higher or BETTER.get(metric) == "higher"


def _shared(collected: Collected, units: str) -> str:
    """Return the first metric that losses share by the kind of data. Raises: VqtkError if kinds differ, too."""
    kinds = {str(run.manifest.get("kind")) for variant in collected.variants for run in variant.runs.values()}
    if len(kinds) > 1 or not kinds <= SHARED.keys():
        raise VqtkError(
            f"{units} The data are {', '.join(sorted(kinds))}: there is no metric to compare these runs by."
        )
    return SHARED[kinds.pop()][0]


def _baseline(collected: Collected, asked: ComparisonRequest) -> Variant:
    named = {variant.name: variant for variant in collected.variants}
    own = (collected.study or {}).get("baseline")
    name = asked.baseline or own or next(iter(named))
    if name in named:
        return named[name]
    if asked.baseline:
        raise VqtkError(f"--baseline {name}: {nearest(name, list(named))}Expected one of {', '.join(named)}.")
    raise VqtkError(
        f"the study's baseline {name!r} has no finished run. Finish it, or name another with --baseline: "
        f"{', '.join(named)}."
    )


def _curve(metric: str, runs: Sequence[Run], units: str) -> str:
    """Return the figure to draw over updates: the metric where evaluations in training have it, otherwise `final`."""
    tested = [row["test"] for run in runs for row in run.metrics if isinstance(row.get("test"), dict)]
    return metric if units or any(metric in row for row in tested) else "final"


def _also(study: dict[str, Any], metric: str, units: str) -> list[str]:
    """Return the other metrics that a study names, but for those in units that differ; the area is always there."""
    names = [one["name"] for one in study.get("metrics") or []]
    return [name for name in names if name not in (metric, "area") and not (units and is_of_the_loss(name))]


def _variants(variants: Sequence[Variant], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each variant reached, and its difference to the first of them."""
    metric, span, higher = found["metric"], found["span_bits"], found["better"] == "higher"
    reached = [{seed: value_of(run, metric, span) for seed, run in variant.runs.items()} for variant in variants]
    base = variants[0].recipe.plain()
    return [
        {
            **variant_measurements(variant, [metric, *found["also"]], span, curve=found["curve"], higher=higher),
            "difference": difference,
            "changes": changes(base, variant.recipe.plain()),
        }
        for variant, difference in zip(variants, [None, *_differences(reached, higher=higher)], strict=True)
    ]


def _differences(reached: Sequence[dict[int, Any]], *, higher: bool) -> list[dict[str, Any]]:
    """Return each variant's seed-paired difference to the first, corrected over all of them."""
    baseline, found = reached[0], []
    for values in reached[1:]:
        seeds = sorted(baseline.keys() & values.keys())
        found.append(paired([values[seed] for seed in seeds], [baseline[seed] for seed in seeds]))
    corrected = holm([float(one.p) for one in found])
    rows = []
    for one, p in zip(found, corrected.tolist(), strict=True):
        mean = float(one.mean)
        stands = None if isnan(p) else p < 1 - LEVEL
        better = (mean > 0) == higher and mean != 0
        words = {None: "too few seeds", False: "within the noise", True: "better" if better else "worse"}
        numbers = {"mean": mean, "low": float(one.low), "high": float(one.high), "p": float(one.p), "p_holm": p}
        told = {key: None if isnan(value) else value for key, value in numbers.items()}
        rows.append({"pairs": one.pairs, **told, "stands": stands, "verdict": words[stands]})
    return rows


def _effects(collected: Collected, metric: str, span: Span | None) -> dict[str, list[dict[str, Any]]]:
    cells = []
    for variant in collected.variants:
        reached = {seed: value_of(run, metric, span) for seed, run in variant.runs.items()}
        cells.append((variant.choices, {seed: value for seed, value in reached.items() if value is not None}))
    return main_effects((collected.study or {}).get("axes") or {}, cells)


def kept_references(variants: Sequence[Variant]) -> dict[str, Any] | None:
    """Return the references of the first run that keeps any, at its rates; None if the loss is not their error."""
    runs = [run for variant in variants for run in variant.runs.values()]
    if any(run.recipe.loss != "mse" for run in runs):
        return None
    found = next((found for run in runs if (found := kept(run.path / REFERENCES_FILE))), None)
    return found.plain() if found else None
