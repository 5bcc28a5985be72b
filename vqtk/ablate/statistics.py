"""Statistics of a comparison over seeds: pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.integrate import trapezoid

LEVEL = 0.95
"""The confidence of intervals; 1 − LEVEL is the rate of false findings that is allowed."""
LEAST = 3
"""Pairs below which no interval is given."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Differences of pairs: their number, and the mean, interval and p of each row, NaN below LEAST pairs."""

    pairs: int
    mean: Floats
    low: Floats
    high: Floats
    p: Floats


def paired(variant: ArrayLike, baseline: ArrayLike) -> Paired:
    """Return the differences variant − baseline (…, pairs) with a paired t interval and its two-sided p.

    Pairs that all differ by the same amount have an interval of no width: p is 1 if that amount is 0, else 0.
    """
    differences = np.asarray(variant, dtype=float) - np.asarray(baseline, dtype=float)
    pairs, shape = differences.shape[-1], differences.shape[:-1]
    unknown = np.full(shape, np.nan)
    mean = differences.mean(-1) if pairs else unknown
    if pairs < LEAST:
        return Paired(pairs, mean, unknown, unknown, unknown)
    error = stats.sem(differences, axis=-1)
    reach = stats.t.ppf((1 + LEVEL) / 2, pairs - 1) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean / error), pairs - 1)
    return Paired(pairs, mean, mean - reach, mean + reach, np.where((error == 0) & (mean == 0), 1.0, p))


def holm(p: ArrayLike) -> Floats:
    """Return p-values (…, comparisons) corrected by Holm's step-down, each at most 1; NaN is no comparison."""
    given = np.asarray(p, dtype=float)
    order = np.argsort(given, axis=-1)
    known = np.sum(~np.isnan(given), axis=-1, keepdims=True)
    stepped = np.take_along_axis(given, order, -1) * (known - np.arange(given.shape[-1]))
    corrected = np.empty_like(given)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0), -1)
    return corrected


def area(bits: ArrayLike, distortion: ArrayLike, *, low: float, high: float) -> float:
    """Return the area under a rate–distortion curve between two rates in bits, linear between its points."""
    rates, values = np.asarray(bits, dtype=float), np.asarray(distortion, dtype=float)
    inside = rates[(rates > low) & (rates < high)]
    points = np.concatenate([[low], inside, [high]])
    return float(trapezoid(np.interp(points, rates, values), points))


def late_fall(updates: ArrayLike, values: ArrayLike) -> float | None:
    """Return by what part of itself a curve fell over the last fifth of its updates; negative if it rose.

    None if it has no point at or before that, or is 0 there.
    """
    at, curve = np.asarray(updates, dtype=float), np.asarray(values, dtype=float)
    if len(at) < 2 or at[0] > 0.8 * at[-1]:
        return None
    before = float(np.interp(0.8 * at[-1], at, curve))
    return (before - float(curve[-1])) / abs(before) if before else None
