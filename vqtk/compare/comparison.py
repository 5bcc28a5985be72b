"""A comparison of runs: by how much each variant differs from the baseline, and whether that is significant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from pathlib import Path
from typing import Any, Literal

from vqtk.compare.collect import Collected, FinishedRun, Variant, collect, encoded_by, with_evaluated, without_diverged
from vqtk.compare.metrics import Span, better_of, common_span, finite, is_in_loss_units, require_known, value_of
from vqtk.compare.notes import notes, verdicts
from vqtk.compare.page import write_page
from vqtk.compare.result import ComparedVariant, Difference, RunComparison, Sweep
from vqtk.compare.statistics import LEVEL, Effect, Paired, holm, main_effects, paired
from vqtk.compare.tables import as_csv, as_markdown, as_tex
from vqtk.compare.variants import differing, differing_units, measured_variant, require_equal
from vqtk.errors import VqtkError, nearest
from vqtk.evaluate.references import REFERENCES_FILE, kept
from vqtk.files import write_text
from vqtk.io.run_files import watched_of
from vqtk.metrics import COMPARABLE
from vqtk.plugin.loading import loaded_plugins
from vqtk.recipe.show import changes, value_at

FILES = ("comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "report.html")
"""What `write` writes."""


@dataclass(frozen=True)
class ComparisonRequest:
    """How to compare. By default as the study asks; without a study, by `final`, with the first variant as baseline."""

    baseline: str | None = None
    metric: str | None = None
    higher: bool = False
    against: Literal["time", "flops"] = "time"
    unequal: bool = False
    search: str | None = None
    within: float | None = None


def compare(paths: Sequence[Path], asked: ComparisonRequest = ComparisonRequest()) -> RunComparison:
    """Return the comparison of run directories, folders of runs and studies; docs/compare.md describes it.

    Raises: VqtkError if there is nothing to compare, or if terms are unequal and `asked` does not allow it.
    """
    collected = without_diverged(collect(paths))
    plugins = {plugin.sha256: plugin.path for run in collected.runs for plugin in run.recipe.plugins}
    with loaded_plugins(list(plugins.values())):  # They may have metrics.
        return _compared(collected, paths, asked)


def _compared(collected: Collected, paths: Sequence[Path], asked: ComparisonRequest) -> RunComparison:
    if asked.search:
        collected = encoded_by(collected, asked.search)
    unequal = differing(collected)
    if not asked.unequal:
        require_equal(unequal)
    units = differing_units(collected.variants)
    metric, higher = _metric(collected, asked, units)
    baseline = _baseline(collected, asked)
    span = None if units else common_span(collected.runs)
    study = collected.study or {}
    also = _also(study, metric, units)
    if not asked.search:
        collected = with_evaluated(collected, [metric, *also])
    require_known(metric, collected.runs, span)
    variants = [baseline, *(variant for variant in collected.variants if variant is not baseline)]
    curve = _curve(metric, collected.runs, units)
    within = _within(study, metric, asked)
    reached = [{seed: value_of(run, metric, span) for seed, run in variant.runs.items()} for variant in variants]
    start = (study.get("seeding") or {}).get("start")
    differences = _differences(reached, higher=higher, start=start, within=within)
    found = RunComparison(
        name=study.get("name") or ", ".join(path.resolve().name for path in paths),
        metric=metric,
        better="higher" if higher else "lower",
        baseline=baseline.name,
        also=also,
        against=asked.against,
        kind=collected.runs[0].manifest.get("kind"),
        terms=study.get("terms", {}).get("said"),
        search=asked.search,
        within=within,
        seeding=study.get("seeding"),
        sweeps=_sweeps(collected),
        unequal=unequal,
        units=units,
        confidence=LEVEL,
        span_bits=span,
        curve=curve,
        references=kept_references(variants),
        effects=_effects(collected, metric, span),
        left_out=collected.left_out,
        variants=_variants(variants, [metric, *also], span, curve=curve, differences=differences, higher=higher),
        verdicts=[],
        notes=[],
    )
    return replace(found, verdicts=verdicts(found), notes=notes(found, collected))


def write(comparison: RunComparison, folder: Path) -> list[Path]:
    """Write comparison.json, .md, .csv and .tex and report.html into a folder; return their paths.

    Raises: VqtkError if they cannot be written.
    """
    texts = (
        json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n",
        as_markdown(comparison),
        as_csv(comparison),
        as_tex(comparison),
    )
    *paths, page = (folder / name for name in FILES)
    try:
        for path, text in zip(paths, texts, strict=True):
            write_text(path, text)
        return [*paths, write_page(comparison, page)]
    except OSError as error:
        raise VqtkError(f"{folder}: the comparison cannot be written ({error}). Choose another with --out.") from None


def write_comparison(study: Path, asked: ComparisonRequest = ComparisonRequest()) -> RunComparison:
    """Compare a study and write the comparison into its directory. Raises: VqtkError, as `compare` does."""
    comparison = compare([study], asked)
    write(comparison, study)
    return comparison


def _metric(collected: Collected, asked: ComparisonRequest, units: str) -> tuple[str, bool]:
    """Return the metric, and whether higher is better. If the units of the losses differ, it is one that all share."""
    listed = (collected.study or {}).get("metrics") or []
    names = [one["name"] for one in listed] or ["final"]
    metric = asked.metric or names[0]
    if units and is_in_loss_units(metric):
        metric = next((name for name in names if not is_in_loss_units(name)), None) or _shared(collected, units)
        if asked.metric:
            raise VqtkError(
                f"--metric {asked.metric}: {units} So a metric in units of the loss cannot rank them. "
                f"Compare by one that all of them share: --metric {metric}."
            )
    higher = any(one.get("name") == metric and one.get("better") == "higher" for one in listed)
    return metric, asked.higher or higher or better_of(metric) == "higher"


def _shared(collected: Collected, units: str) -> str:
    """Return the first metric that all losses on a kind of data share. Raises: VqtkError if kinds differ as well."""
    kinds = {str(run.manifest.get("kind")) for run in collected.runs}
    if len(kinds) > 1 or not kinds <= COMPARABLE.keys():
        raise VqtkError(
            f"{units} The kinds of data are {', '.join(sorted(kinds))}: no metric applies to all of these runs."
        )
    return COMPARABLE[kinds.pop()][0]


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


def _curve(metric: str, runs: Sequence[FinishedRun], units: str) -> str:
    """Return what to plot over updates: the metric if evaluations during training have it, otherwise `final`."""
    tested = [found for run in runs for row in run.metrics if (found := watched_of(row))]
    return metric if units or any(metric in row for row in tested) else "final"


def _also(study: dict[str, Any], metric: str, units: str) -> list[str]:
    """Return the study's other metrics that can be compared. The area is always shown, so it is not among them."""
    names = [one["name"] for one in study.get("metrics") or []]
    return [name for name in names if name not in (metric, "area") and not (units and is_in_loss_units(name))]


def _within(study: dict[str, Any], metric: str, asked: ComparisonRequest) -> float | None:
    """Return the margin of equivalence: the one asked for, or the study's, which is in units of its main metric.

    Raises: VqtkError if it is not more than 0.
    """
    if asked.within is not None:
        if not 0 < asked.within < inf:
            raise VqtkError(f"--within {asked.within:g}: expected a margin of more than 0, in units of the metric.")
        return asked.within
    listed = study.get("metrics") or []
    return study.get("within") if listed and listed[0]["name"] == metric else None


def _variants(
    variants: Sequence[Variant],
    metrics: Sequence[str],
    span: Span | None,
    *,
    curve: str,
    differences: Sequence[Difference],
    higher: bool,
) -> list[ComparedVariant]:
    """Return what each variant reached, with its difference from the first of them."""
    base = variants[0].recipe.of_variant()
    return [
        replace(
            measured_variant(variant, metrics, span, curve=curve, higher=higher),
            difference=difference,
            changes=changes(base, variant.recipe.of_variant()),
        )
        for variant, difference in zip(variants, [None, *differences], strict=True)
    ]


def _differences(
    reached: Sequence[dict[int, Any]], *, higher: bool, start: int | None, within: float | None
) -> list[Difference]:
    """Return each variant's seed-paired difference from the first, with p-values corrected over all of them.

    Seeds below `start` are those that the study began with, if others were added after them.
    """
    baseline, found = reached[0], []
    for values in reached[1:]:
        seeds = sorted(baseline.keys() & values.keys())
        first = None if start is None else sum(seed < start for seed in seeds)
        pairs = [values[seed] for seed in seeds], [baseline[seed] for seed in seeds]
        found.append(paired(*pairs, first=first, within=within))
    corrected = holm([float(one.p) for one in found]).tolist()
    equal = holm([float(one.p_within) for one in found]).tolist()
    return [_difference(*each, higher=higher, within=within) for each in zip(found, corrected, equal, strict=True)]


def _difference(found: Paired, corrected: float, equal: float, *, higher: bool, within: float | None) -> Difference:
    mean = float(found.mean)
    significant = None if isnan(corrected) else corrected < 1 - LEVEL
    equivalent = None if isnan(equal) else equal < 1 - LEVEL
    better = "better" if (mean > 0) == higher and mean != 0 else "worse"
    words = {None: "too few seeds", False: "within the noise", True: better}
    verdict = words[significant]
    if equivalent and within is not None:
        verdict = f"{better}, but equivalent (±{within:g})" if significant else f"equivalent (±{within:g})"
    return Difference(
        pairs=found.pairs,
        mean=finite(mean),
        low=finite(float(found.low)),
        high=finite(float(found.high)),
        p=finite(float(found.p)),
        p_holm=finite(corrected),
        significant=significant,
        p_within=finite(equal),
        equivalent=equivalent,
        verdict=verdict,
    )


def _sweeps(collected: Collected) -> dict[str, Sweep]:
    """Return the axes of numbers of a study, with the number that each variant's recipe has there."""
    sweeps = {}
    for axis, scale in ((collected.study or {}).get("numeric") or {}).items():
        found = {variant.name: value_at(variant.recipe.plain(), axis) for variant in collected.variants}
        numbers = {name: value for name, given in found.items() if (value := finite(given)) is not None}
        if numbers:
            sweeps[axis] = Sweep("log" if scale == "log" and min(numbers.values()) > 0 else "linear", numbers)
    return sweeps


def _effects(collected: Collected, metric: str, span: Span | None) -> dict[str, list[Effect]]:
    reached = []
    for variant in collected.variants:
        values = {seed: value_of(run, metric, span) for seed, run in variant.runs.items()}
        reached.append((variant.choices, {seed: value for seed, value in values.items() if value is not None}))
    return main_effects((collected.study or {}).get("axes") or {}, reached)


def kept_references(variants: Sequence[Variant]) -> dict[str, Any] | None:
    """Return the references of the first run that has any; None if a loss is not the error that they measure."""
    runs = [run for variant in variants for run in variant.runs.values()]
    if any(run.recipe.loss != "mse" for run in runs):
        return None
    found = next((found for run in runs if (found := kept(run.path / REFERENCES_FILE))), None)
    return found.plain() if found else None
