"""The metrics that runs are compared by, and their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from vqtk.callbacks import BESIDES
from vqtk.compare.collect import FinishedRun, how_to_measure
from vqtk.errors import VqtkError, nearest
from vqtk.metrics import COMPARABLE, CurveMetric, is_of_the_loss, metric_class
from vqtk.recipe.build import build_dataset
from vqtk.recipe.node import Node, Problems
from vqtk.registry import metrics

_STAGE = re.compile(r"stages\.([1-9]\d*)\.distortion")


def is_in_loss_units(metric: str) -> bool:
    """Return whether a metric is in units of the loss, and so cannot compare runs of different losses."""
    return is_of_the_loss(metric) or bool(_STAGE.fullmatch(metric))


def better_of(metric: str) -> str | None:
    """Return which direction of a metric is better; None if it is neither registered nor the loss after a stage."""
    known = metric_class(metric)
    return known.better if known else "lower" if _STAGE.fullmatch(metric) else None


@dataclass(frozen=True)
class Criterion:
    """A metric that a study compares by, and whether `lower` or `higher` is better."""

    name: str
    better: str

    @property
    def stage(self) -> int | None:
        """The stage whose distortion it is; None if it is another metric."""
        found = _STAGE.fullmatch(self.name)
        return int(found[1]) if found else None

    def plain(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)


def criteria_of(node: Node | None, problems: Problems) -> list[Criterion]:
    """Return the metrics that a study names, the main one first; final and area if it names none."""
    if node is None:
        return [Criterion("final", "lower"), Criterion("area", "lower")]
    children, known = node.value if isinstance(node.value, list) else [node], list(metrics.entries())
    if not children:
        problems.add(node, "metrics", f"expected a list of metrics, of {', '.join(known)}.")
    found: list[Criterion] = []
    for index, child in enumerate(children):
        better = better_of(child.value) if isinstance(child.value, str) else None
        if better is None:
            problems.add(
                child, f"metrics.{index}", f"no metric is called {child.plain()!r}. "
                f"{nearest(str(child.value), known)}Known: {', '.join(known)}, stages.S.distortion.",
            )  # fmt: skip
            continue
        if child.value in [one.name for one in found]:
            problems.add(child, f"metrics.{index}", f"{child.value!r} is listed twice. Remove one.")
        found.append(Criterion(child.value, better))
    return found


Span = tuple[float, float]
"""The rates in bits between which areas are taken."""


def value_of(run: FinishedRun, metric: str, span: Span | None) -> float | None:
    """Return the value of a metric: one of the curve, `stages.S.KEY` of stage S, or a key of the summary's test row.

    None if it is missing or not finite.
    """
    known = metric_class(metric)
    if known and issubclass(known, CurveMetric):
        return _of_the_curve(run, known, span)
    stage = re.fullmatch(r"stages\.(\d+)\.(\w+)", metric)
    if stage:
        rows = [row for row in run.summary["stages"] if row.get("stage") == int(stage[1])]
        return finite(rows[0].get(stage[2])) if rows else None
    return finite(run.summary["test"].get(metric))


def common_span(runs: Sequence[FinishedRun]) -> Span | None:
    """Return the rates that the rate–distortion curves of all runs cover, or None if there is no such range."""
    curves = [curve for curve in map(_curve, runs) if len(curve) > 1]
    if not curves:
        return None
    low, high = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    return (low, high) if low < high else None


def require_known(metric: str, runs: Sequence[FinishedRun], span: Span | None) -> None:
    """Raise VqtkError if any run lacks the metric."""
    missing = [run for run in runs if value_of(run, metric, span) is None]
    if not missing:
        return
    known = sorted({key for run in runs for key, value in run.summary["test"].items() if finite(value) is not None})
    known, of = [name for name in known if name not in BESIDES], metric_class(metric)
    kind = missing[0].manifest.get("kind")
    if of and of.kinds and kind not in of.kinds:
        advice = f"It is a metric of {' or '.join(of.kinds)} data, and these are {kind}. "
    elif any(metric in names for names in COMPARABLE.values()):
        advice = f"To measure a run of an earlier version again: vqtk run --resume {missing[0].path}. "
    elif of and issubclass(of, CurveMetric):
        advice = "It needs losses after two stages or more, at rates that all runs share. "
    elif of:
        advice = how_to_measure(metric, missing)
    else:
        advice = nearest(metric, [*known, *metrics.entries()])
    raise VqtkError(
        f"--metric {metric}: {missing[0].path} does not have this metric. {advice}Expected area, stages.S.distortion "
        f"for a stage S, or one of {', '.join(known)}."
    )


def _of_the_curve(run: FinishedRun, metric: type[CurveMetric], span: Span | None) -> float | None:
    curve = _curve(run)
    if span is None or len(curve) < 2:
        return None
    bits, distortion = zip(*curve, strict=True)
    return metric(build_dataset(run.recipe).spec).measure(bits, distortion, low=span[0], high=span[1])


def _curve(run: FinishedRun) -> list[tuple[float, float]]:
    return [
        (row["bits"], row["distortion"]) for row in run.summary["stages"] if finite(row.get("distortion")) is not None
    ]


def finite(value: Any) -> float | None:
    """Return a number as such; None for anything else, and for what is not finite."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return float(value) if known else None
