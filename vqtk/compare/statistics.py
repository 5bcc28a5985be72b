"""Paired differences with their intervals, equivalence, the seeds these take, corrected p-values, and main effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""The confidence of intervals; 1 − LEVEL is the allowed rate of false findings."""
LEAST = 3
"""The fewest pairs that have an interval."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Differences of pairs.

    Arguments:
        pairs: how many there are.
        mean: of each row.
        low: the lower end of its interval; NaN if too few pairs have a deviation.
        high: the upper end.
        p: the two-sided p-value of the hypothesis that the true difference is 0.
        p_within: the p-value of the hypothesis that it is at least `within` in size; NaN if that was not given.
    """

    pairs: int
    mean: Floats
    low: Floats
    high: Floats
    p: Floats
    p_within: Floats


def paired(variant: ArrayLike, baseline: ArrayLike, *, first: int | None = None, within: float | None = None) -> Paired:
    """Return the differences variant − baseline (…, pairs) with a paired t interval and its two-sided p.

    Pairs that all differ by the same amount have an interval of no width: p is 1 if that amount is 0, else 0.

    Arguments:
        variant: values of the variant.
        baseline: values of the baseline, with the same seeds.
        first: if the number of pairs was chosen after these first ones by their deviation, as `seeds_needed` does; then
            the deviation and its degrees of freedom are theirs alone, which keeps the interval's confidence exact
            (Stein 1945, Annals of Mathematical Statistics 16, 243).
        within: the margin of equivalence, for two one-sided tests (Schuirmann 1987,
            Journal of Pharmacokinetics and Biopharmaceutics 15, 657).
    """
    from scipy import stats  # Here, for it takes a second to import.

    differences = np.asarray(variant, dtype=float) - np.asarray(baseline, dtype=float)
    pairs, unknown = differences.shape[-1], np.full(differences.shape[:-1], np.nan)
    known = pairs if first is None else min(first, pairs)
    mean = differences.mean(-1) if pairs else unknown
    if known < LEAST:
        return Paired(pairs, mean, unknown, unknown, unknown, unknown)
    error, freedom = differences[..., :known].std(-1, ddof=1) / np.sqrt(pairs), known - 1
    half = stats.t.ppf(0.5 + LEVEL / 2, freedom) * error

    def standard(gap: Floats) -> Floats:
        """Return a gap in standard errors; infinite if there is a gap without error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap == 0, 0.0, gap / error)

    p = 2 * stats.t.sf(np.abs(standard(mean)), freedom)
    p_within = unknown
    if within is not None:
        below, above = (stats.t.sf(standard(gap), freedom) for gap in (within + mean, within - mean))
        p_within = np.maximum(below, above)
    return Paired(pairs, mean, mean - half, mean + half, p, p_within)


def seeds_needed(differences: ArrayLike, half_width: float) -> int:
    """Return how many pairs make the interval of a first stage's differences at most twice `half_width` wide.

    Only their deviation is used, of which the mean of normal values is independent: `paired(…, first=…)` is then exact,
    which an interval that is computed after every seed is not (Chow and Robbins 1965, ibid. 36, 457: only in the limit
    of narrow intervals).

    Source: Stein 1945.
    """
    from scipy import stats

    first = np.asarray(differences, dtype=float)
    half = stats.t.ppf(0.5 + LEVEL / 2, len(first) - 1) * first.std(ddof=1)
    return max(len(first), int(np.ceil((half / half_width) ** 2)))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the t interval of a mean over seeds; None for fewer than LEAST values."""
    if len(values) < LEAST:
        return None
    found = paired(values, np.zeros(len(values)))
    return float(found.low), float(found.high)


def holm(p: ArrayLike) -> Floats:
    """Return p-values (…, comparisons) corrected by Holm's step-down, each at most 1; NaN is no comparison."""
    given = np.asarray(p, dtype=float)
    order = np.argsort(given, axis=-1)
    known = np.sum(~np.isnan(given), axis=-1, keepdims=True)
    stepped = np.take_along_axis(given, order, -1) * (known - np.arange(given.shape[-1]))
    corrected = np.empty_like(given)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0), -1)
    return corrected


def late_fall(updates: ArrayLike, values: ArrayLike) -> float | None:
    """Return by what part of itself a curve fell over the last fifth of its updates; negative if it rose.

    None if it has no point before that, or is 0 there.
    """
    at, curve = np.asarray(updates, dtype=float), np.asarray(values, dtype=float)
    if len(at) < 2 or at[0] > 0.8 * at[-1]:
        return None
    before = float(np.interp(0.8 * at[-1], at, curve))
    return (before - float(curve[-1])) / abs(before) if before else None


@dataclass(frozen=True)
class MeanStd:
    """A mean over seeds.

    Arguments:
        mean: of the values that are known; None if none is.
        std: their standard deviation (n − 1); None for fewer than two.
        missing: how many values are not known.
    """

    mean: float | None
    std: float | None
    missing: int


def mean_std(values: Sequence[float | None]) -> MeanStd:
    """Return the mean and the standard deviation of values, some of which may be missing."""
    known = [value for value in values if value is not None]
    return MeanStd(
        mean=fmean(known) if known else None,
        std=stdev(known) if len(known) > 1 else None,
        missing=len(values) - len(known),
    )


@dataclass(frozen=True)
class Effect:
    """What one value of an axis does, all else being equal.

    Arguments:
        value: of the axis.
        variants: how many have this value, each with a partner at every other value.
        seeds: how many all of these variants have.
        result: the metric, first averaged over the variants, over seeds.
    """

    value: str
    variants: int
    seeds: int
    result: MeanStd

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "cells": self.variants, "seeds": self.seeds, **asdict(self.result)}


Reached = Sequence[tuple[Mapping[str, str], Mapping[int, float]]]
"""Of each variant, its value on each axis, and its metric by seed."""


def main_effects(axes: Mapping[str, Sequence[str]], reached: Reached) -> dict[str, list[Effect]]:
    """Return the effect of each value of each axis.

    Only sets of variants that differ in this axis alone and have all its values count, with the seeds that all of them
    have. An axis without such a set is left out.
    """
    effects = {axis: _effects(axis, values, reached) for axis, values in axes.items()}
    return {axis: rows for axis, rows in effects.items() if rows}


def _effects(axis: str, values: Sequence[str], reached: Reached) -> list[Effect]:
    sets: dict[tuple[tuple[str, str], ...], dict[str, Mapping[int, float]]] = {}
    for choices, by_seed in reached:
        if axis in choices:
            rest = tuple(sorted((name, value) for name, value in choices.items() if name != axis))
            sets.setdefault(rest, {})[choices[axis]] = by_seed
    whole = [each for each in sets.values() if set(values) <= set(each)]
    seeds = set.intersection(*(set(each[value]) for each in whole for value in values)) if whole and values else set()
    if not seeds:
        return []
    return [
        Effect(
            value=value,
            variants=len(whole),
            seeds=len(seeds),
            result=mean_std([fmean(each[value][seed] for each in whole) for seed in sorted(seeds)]),
        )
        for value in values
    ]
