"""What a comparison says in words, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vqtk.compare.collect import Collected
from vqtk.compare.metrics import SAMPLES
from vqtk.compare.statistics import LEAST

STILL_FALLING = 0.02
"""The part of itself by which a figure may get better over the last fifth of the updates and still be called level."""
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


def format_spread(row: dict[str, Any]) -> str:
    """Return mean ± standard deviation, and how many values are missing from them."""
    std, missing = row["std"], row["missing"]
    beside = f" ({missing} missing)" if missing and row["mean"] is not None else ""
    if std is None:
        return format_number(row["mean"]) + beside
    return f"{format_number(row['mean'])} ± " + (f"{std:,.0f}" if 100 <= std < 1e9 else f"{std:.2g}") + beside


def format_difference(row: dict[str, Any] | None) -> str:
    """Return a difference with its interval where there is one."""
    if row is None or row["mean"] is None:
        return "–"
    interval = "" if row["low"] is None else f" [{format_change(row['low'])}, {format_change(row['high'])}]"
    return format_change(row["mean"]) + interval


def p_value(row: dict[str, Any] | None) -> str:
    """Return a corrected p-value."""
    if row is None or row["p_holm"] is None:
        return "–"
    return "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"


def verdicts(comparison: dict[str, Any]) -> list[str]:
    """Return a sentence for each variant but the baseline: whether its difference stands."""
    return [_verdict(row, comparison) for row in comparison["variants"] if row["difference"]]


def _verdict(row: dict[str, Any], comparison: dict[str, Any]) -> str:
    found, baseline = row["difference"], comparison["baseline"]
    pairs = f"{found['pairs']} seed{'' if found['pairs'] == 1 else 's'}"
    by = format_change(found["mean"]) if found["mean"] is not None else ""
    if found["stands"] is None:
        seen = f" (the difference is {by})" if by else ""
        return (
            f"{row['name']}: nothing can be said. It has {pairs} in common with {baseline}{seen}; an interval needs "
            f"{LEAST}."
        )
    ends = " to ".join(format_change(found[end]) for end in ("low", "high"))
    given = f"{by} ({100 * comparison['confidence']:g} % interval {ends}, corrected p {p_value(found)}, {pairs})"
    if found["stands"]:
        return f"{row['name']} is {found['verdict']} than {baseline}, and this stands: {comparison['metric']} {given}."
    return f"{row['name']} does not differ from {baseline} beyond the noise: {comparison['metric']} {given}."


def notes(comparison: dict[str, Any], collected: Collected) -> list[str]:
    """Return what a reader has to know beside the figures."""
    rows = comparison["variants"]
    found = [_units(comparison), _falling(rows, comparison["curve"]), _unknown(rows), _diverged(collected)]
    found += [_seeds(rows), _rates(rows), _machines(collected), _subset(collected), _features(comparison, collected)]
    if comparison["span_bits"]:
        low, high = comparison["span_bits"]
        found.append(f"The area is that under the rate–distortion curve from {low:g} to {high:g} bits.")
    return [note for note in found if note]


def _falling(rows: Sequence[dict[str, Any]], curve: str) -> str:
    moving = [row for row in rows if row["late_fall"] is not None and row["late_fall"] > STILL_FALLING]
    if not moving:
        return ""
    listed = ", ".join(f"{row['name']} {100 * row['late_fall']:.0f} %" for row in moving)
    return (
        f"The curves are still moving: over the last fifth of the updates {curve} on the test items got better by "
        f"{listed}. So this compares how fast the variants learn, not where they end."
    )


def _unknown(rows: Sequence[dict[str, Any]]) -> str:
    unknown = [row["name"] for row in rows if row["late_fall"] is None]
    if not unknown:
        return ""
    return (
        f"Whether the curves of {', '.join(unknown)} are still moving cannot be told: they have no evaluation at or "
        "before four fifths of the updates, or none of the same test items at the end. Train for longer, or lower "
        "train.evaluate_every."
    )


def _diverged(collected: Collected) -> str:
    count = sum("diverged" in one.why for one in collected.left_out)
    if not count:
        return ""
    are = "1 run diverged and is" if count == 1 else f"{count} runs diverged and are"
    return f"{are} in no mean: the variants that they belong to look better here than they are."


def _units(comparison: dict[str, Any]) -> str:
    if not comparison["units"]:
        return ""
    return (
        f"{comparison['units']} Distortion, `final` and `area` are in units of the loss, so the variants are compared "
        f"by {comparison['metric']}, which all of them share."
    )


def _seeds(rows: Sequence[dict[str, Any]]) -> str:
    if len({tuple(row["seeds"]) for row in rows}) == 1:
        return ""
    return "Not all variants have the same seeds: read the paired differences, not the differences of the means."


def _rates(rows: Sequence[dict[str, Any]]) -> str:
    rates = {row["bits"] for row in rows if row["bits"] is not None}
    if len(rates) < 2:
        return ""
    return "The codes have different rates: " + ", ".join(f"{row['name']} {row['bits']:g} bits" for row in rows) + "."


def _features(comparison: dict[str, Any], collected: Collected) -> str:
    if not SAMPLES.keys() & {comparison["metric"], *comparison["also"]}:
        return ""
    runs = [run for variant in collected.variants for run in variant.runs.values()]
    found = next((run.summary["quality"] for run in runs if "quality" in run.summary), None)
    if found is None:
        return ""
    reference = " and ".join(f"{format_number(value)} by {key}" for key, value in found["reference"].items())
    return (
        f"{found['samples']:,} samples were compared with {found['test_items']:,} test items in {found['features']}. "
        f"As many training items in their place come to {reference}."
    )


def _machines(collected: Collected) -> str:
    runs = [run for variant in collected.variants for run in variant.runs.values()]
    machines = {tuple(str(run.manifest.get(key)) for key in _MACHINE) for run in runs}
    if len(machines) == 1:
        return ""
    return "The runs come from different machines, devices or thread counts: do not compare their times."


def _subset(collected: Collected) -> str:
    runs = [run for variant in collected.variants for run in variant.runs.values()]
    if not any(run.summary.get("test_is_subset") for run in runs):
        return ""
    return (
        f"Tested on {runs[0].summary['test_items']:,} items, a subset of the test split that the seed draws: it may be "
        "easier or harder than all of the split."
    )
