"""What runs are compared by: a figure of a run's summary, or the area under its rate–distortion curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

from vqtk.ablate.collect import Run
from vqtk.ablate.named_metrics import SHARED
from vqtk.ablate.statistics import area
from vqtk.errors import VqtkError, nearest

Span = tuple[float, float]
"""The rates in bits between which areas are taken."""


def value_of(run: Run, metric: str, span: Span | None) -> float | None:
    """Return a run's figure: `area`, `stages.K.KEY` of stage K, or a key of the summary's test row.

    None if it is absent, or not finite.
    """
    if metric == "area":
        return _area(run, span)
    stage = re.fullmatch(r"stages\.(\d+)\.(\w+)", metric)
    if stage:
        rows = [row for row in run.summary["stages"] if row.get("stage") == int(stage[1])]
        return finite(rows[0].get(stage[2])) if rows else None
    return finite(run.summary["test"].get(metric))


def common_span(runs: Sequence[Run]) -> Span | None:
    """Return the rates that the rate–distortion curves of all runs cover, or None if there is no such range."""
    curves = [curve for curve in map(_curve, runs) if len(curve) > 1]
    if not curves:
        return None
    low, high = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    return (low, high) if low < high else None


def require_known(metric: str, runs: Sequence[Run], span: Span | None) -> None:
    """Raise VqtkError if any run has no such figure."""
    missing = [run for run in runs if value_of(run, metric, span) is None]
    if not missing:
        return
    known = sorted({key for run in runs for key, value in run.summary["test"].items() if finite(value) is not None})
    close = nearest(metric, [*known, "area"])
    if any(metric in names for names in SHARED.values()):
        close = f"A run of an earlier version is measured again by vqtk run --resume {missing[0].path}. "
    raise VqtkError(
        f"--metric {metric}: {missing[0].path} has no such figure. {close}Expected area, stages.K.distortion for a "
        f"stage K, or one of {', '.join(known)}."
    )


def _area(run: Run, span: Span | None) -> float | None:
    curve = _curve(run)
    if span is None or len(curve) < 2:
        return None
    bits, distortion = zip(*curve, strict=True)
    return area(bits, distortion, low=span[0], high=span[1])


def _curve(run: Run) -> list[tuple[float, float]]:
    return [
        (row["bits"], row["distortion"]) for row in run.summary["stages"] if finite(row.get("distortion")) is not None
    ]


def finite(value: Any) -> float | None:
    """Return a number as such; None for anything else, and for what is not finite."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return float(value) if known else None
