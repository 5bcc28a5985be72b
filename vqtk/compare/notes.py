"""Numbers as text, and the verdicts and notes of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from vqtk.compare.collect import PRUNED, Collected
from vqtk.compare.result import ComparedVariant, Difference, RunComparison
from vqtk.compare.statistics import LEAST, MeanStd
from vqtk.metrics import SampleMetric, metric_class

STILL_FALLING = 0.02
"""A curve that improves by more than this share of itself over the last fifth of the updates has not converged."""
_MACHINE = ("device", "processor", "cores", "threads")


def format_number(value: float | None) -> str:
    """Return a number to four significant digits, thousands in full, or a dash."""
    if value is None:
        return "–"
    return _minus(f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}")


def format_change(value: float) -> str:
    """Return a difference with its sign, to three significant digits, thousands in full."""
    return _minus(f"{value:+,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:+.3g}")


def _minus(text: str) -> str:
    """Put a real minus sign before a negative number."""
    return text.replace("-", "−", 1) if text.startswith("-") else text


def engineering(value: float | None) -> str:
    """Return a count in thousands, millions, …: 1.23 M."""
    if value is None:
        return "–"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"


def format_mean_std(reached: MeanStd) -> str:
    """Return mean ± standard deviation, and how many values are missing."""
    mean, std = reached.mean, reached.std
    beside = f" ({reached.missing} missing)" if reached.missing and mean is not None else ""
    if std is None:
        return format_number(mean) + beside
    return f"{format_number(mean)} ± " + (f"{std:,.0f}" if 100 <= std < 1e9 else f"{std:.2g}") + beside


def format_difference(difference: Difference | None) -> str:
    """Return a difference with its interval where there is one."""
    if difference is None or difference.mean is None:
        return "–"
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f" [{format_change(low)}, {format_change(high)}]"
    return format_change(difference.mean) + interval


def format_p(p: float | None) -> str:
    """Return a corrected p-value."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdicts(comparison: RunComparison) -> list[str]:
    """Return a sentence for each variant but the baseline: whether its difference is significant."""
    return [
        _verdict(variant.name, variant.difference, comparison) for variant in comparison.variants if variant.difference
    ]


def _verdict(name: str, difference: Difference, comparison: RunComparison) -> str:
    mean, low, high, baseline = difference.mean, difference.low, difference.high, comparison.baseline
    pairs = f"{difference.pairs} seed{'' if difference.pairs == 1 else 's'}"
    by = format_change(mean) if mean is not None else ""
    if difference.significant is None or low is None or high is None:
        seen = f" (the difference is {by})" if by else ""
        return f"{name}: too few seeds. It has {pairs} in common with {baseline}{seen}; an interval needs {LEAST}."
    interval = f"{100 * comparison.confidence:g} % interval {format_change(low)} to {format_change(high)}"
    given = f"{comparison.metric} {by} ({interval}, corrected p {format_p(difference.p_holm)}, {pairs})"
    equal = _equivalence(difference, comparison)
    if difference.significant:
        better = difference.verdict.partition(",")[0]
        return f"{name} is significantly {better} than {baseline}: {given}.{equal}"
    return f"{name} does not differ significantly from {baseline}: {given}.{equal}"


def _equivalence(difference: Difference, comparison: RunComparison) -> str:
    if comparison.within is None or difference.p_within is None:
        return ""
    shown = "is shown" if difference.equivalent else "is not shown"
    return f" Equivalence within ±{comparison.within:g} {shown} (corrected p {format_p(difference.p_within)})."


def notes(comparison: RunComparison, collected: Collected) -> list[str]:
    """Return what a reader has to know to judge the numbers."""
    variants = comparison.variants
    found = [_units(comparison), _falling(variants, comparison.curve), _unknown(variants), _diverged(collected)]
    found += [_seeds(variants), _rates(variants), _machines(collected)]
    found += [_subset(collected), _features(comparison, collected), _pruned(collected), _seeding(comparison)]
    found += [_at_an_end(comparison, axis) for axis in comparison.sweeps]
    if comparison.span_bits:
        low, high = comparison.span_bits
        found.append(f"The area is taken under the rate–distortion curve, from {low:g} to {high:g} bits.")
    return [note for note in found if note]


def _at_an_end(comparison: RunComparison, axis: str) -> str:
    """Say if the best number that a sweep tried is its smallest or largest, so that a better one may lie beyond."""
    numbers = comparison.sweeps[axis].numbers
    means = {one.name: one.result.mean for one in comparison.variants if one.name in numbers}
    reached = {name: mean for name, mean in means.items() if mean is not None}
    if len(reached) < 3:
        return ""
    best = (min if comparison.better == "lower" else max)(reached, key=reached.__getitem__)
    tried = [numbers[name] for name in reached]
    if min(tried) < numbers[best] < max(tried):
        return ""
    end = "largest" if numbers[best] == max(tried) else "smallest"
    return f"The best mean is that of {best}, the {end} number tried for {axis}, so a better number may lie beyond it."


def _falling(variants: Sequence[ComparedVariant], curve: str) -> str:
    falls = [(variant.name, variant.late_fall) for variant in variants if variant.late_fall is not None]
    moving = [(name, fall) for name, fall in falls if fall > STILL_FALLING]
    if not moving:
        return ""
    listed = ", ".join(f"{name} {100 * fall:.0f} %" for name, fall in moving)
    return (
        f"The curves have not converged: over the last fifth of the updates, {curve} on the test examples improved by "
        f"{listed}. So this compares how fast the variants learn, not where they end."
    )


def _unknown(variants: Sequence[ComparedVariant]) -> str:
    unknown = [variant.name for variant in variants if variant.late_fall is None]
    if not unknown:
        return ""
    return (
        f"It is unknown whether the curves of {', '.join(unknown)} have converged: they have no evaluation at or "
        "before four fifths of the updates, or none on the same test examples at the end. Train for longer, or lower "
        "train.evaluate_every."
    )


def _diverged(collected: Collected) -> str:
    count = sum("diverged" in one.why for one in collected.left_out)
    if not count:
        return ""
    runs = "1 run diverged" if count == 1 else f"{count} runs diverged"
    return f"{runs}. The means leave such runs out, so their variants look better here than they are."


def _pruned(collected: Collected) -> str:
    if not any(one.why.startswith(PRUNED) for one in collected.left_out):
        return ""
    return (
        "Hopeless runs were pruned: ended early, because they were worse than the median of earlier runs. Their "
        "variants are in no mean, no table and no correction of p-values."
    )


def _seeding(comparison: RunComparison) -> str:
    seeding = comparison.seeding
    if not seeding:
        return ""
    start, most, until = seeding["start"], seeding["most"], seeding["until"]
    wide = [
        row.name
        for row in comparison.variants
        if row.difference and row.difference.low is not None and row.difference.high is not None
        and row.difference.high - row.difference.low > 2 * until * (1 + 1e-9)
    ]  # fmt: skip
    still = f" The intervals of {', '.join(wide)} are wider still, at the most seeds of {most}." if wide else ""
    return (
        f"Seeds were added by Stein's two-stage procedure, to know each difference to ± {until:g}: their number "
        f"follows from the deviation over the first {start} seeds alone. The intervals and tests use that deviation as "
        f"well, so they hold as if the number had been fixed.{still}"
    )


def _units(comparison: RunComparison) -> str:
    if not comparison.units:
        return ""
    return (
        f"{comparison.units} Distortion, `final` and `area` are in units of the loss, so the variants are compared "
        f"by {comparison.metric}, which all of them have."
    )


def _seeds(variants: Sequence[ComparedVariant]) -> str:
    if len({tuple(variant.seeds) for variant in variants}) == 1:
        return ""
    return "The variants do not all have the same seeds: read the paired differences, not the differences of the means."


def _rates(variants: Sequence[ComparedVariant]) -> str:
    rates = [(variant.name, variant.costs.bits) for variant in variants if variant.costs.bits is not None]
    if len({bits for _, bits in rates}) < 2:
        return ""
    return "The codes have different rates: " + ", ".join(f"{name} {bits:g} bits" for name, bits in rates) + "."


def _features(comparison: RunComparison, collected: Collected) -> str:
    compared = [metric_class(name) for name in (comparison.metric, *comparison.also)]
    if not any(one and issubclass(one, SampleMetric) for one in compared):
        return ""
    found = next((run.summary["quality"] for run in collected.runs if "quality" in run.summary), None)
    if found is None:
        return ""
    reference = " and ".join(f"{format_number(value)} by {key}" for key, value in found["reference"].items())
    return (
        f"{found['samples']:,} samples were compared with {found['test_items']:,} test examples in "
        f"{found['features']}. The same number of training examples reaches {reference}."
    )


def _machines(collected: Collected) -> str:
    machines = {tuple(str(run.manifest.get(key)) for key in _MACHINE) for run in collected.runs}
    if len(machines) == 1:
        return ""
    return "The runs come from different machines, devices or thread counts: do not compare their times."


def _subset(collected: Collected) -> str:
    if not any(run.summary.get("test_is_subset") for run in collected.runs):
        return ""
    return (
        f"Tested on {collected.runs[0].summary['test_items']:,} examples, a subset of the test split drawn by the "
        "seed, which may be easier or harder than the whole."
    )
