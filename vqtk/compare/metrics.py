"""The metrics that runs are compared by, and their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from vqtk.compare.collect import FinishedRun
from vqtk.compare.statistics import area
from vqtk.errors import VqtkError, nearest
from vqtk.recipe.node import Node, Problems

BETTER = {
    "final": "lower",
    "area": "lower",
    "choice": "lower",
    "all": "lower",
    "entropy_pooled_nats": "higher",
    "used": "higher",
    "mse_pixels": "lower",
    "psnr_db": "higher",
    "token_accuracy": "higher",
    "iou": "higher",
    "distance": "lower",
    "recall_at_1": "higher",
    "recall_at_10": "higher",
    "recall_at_100": "higher",
    "squared_error": "lower",
    "samples_frechet": "lower",
    "samples_kernel": "lower",
}
"""The metrics by name, and which way each is better."""
SAMPLES = {"samples_frechet": "frechet", "samples_kernel": "kid"}
"""The metrics of samples, which are measured separately, with the attributes of `Quality` that hold them."""
SHARED = {"image": ("mse_pixels", "psnr_db"), "text": ("token_accuracy",), "voxels": ("iou",), "points": ("distance",)}
"""The metrics of reconstructions that do not depend on the loss, by the kind of data, as `vqtk eval` measures them."""
_OF_THE_LOSS = {"final", "area", "choice", "all"}
_STAGE = re.compile(r"stages\.([1-9]\d*)\.distortion")


def is_of_the_loss(metric: str) -> bool:
    """Return whether a metric is in units of the loss, and so cannot compare runs of different losses."""
    return metric in _OF_THE_LOSS or bool(_STAGE.fullmatch(metric))


@dataclass(frozen=True)
class Metric:
    """A metric on the test examples, and whether `lower` or `higher` is better."""

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


def metrics_of(node: Node | None, problems: Problems) -> list[Metric]:
    """Return the metrics that a study names, the main one first; final and area if it names none."""
    if node is None:
        return [Metric("final", "lower"), Metric("area", "lower")]
    children = node.value if isinstance(node.value, list) else [node]
    if not children:
        problems.add(node, "metrics", f"expected a list of metrics, of {', '.join(BETTER)}.")
    metrics: list[Metric] = []
    for index, child in enumerate(children):
        if not isinstance(child.value, str) or not (child.value in BETTER or _STAGE.fullmatch(child.value)):
            problems.add(
                child, f"metrics.{index}", f"no metric is called {child.plain()!r}. "
                f"{nearest(str(child.value), list(BETTER))}Known: {', '.join(BETTER)}, stages.K.distortion.",
            )  # fmt: skip
            continue
        if child.value in [metric.name for metric in metrics]:
            problems.add(child, f"metrics.{index}", f"{child.value!r} is listed twice. Remove one.")
        metrics.append(Metric(child.value, BETTER.get(child.value, "lower")))
    return metrics


Span = tuple[float, float]
"""The rates in bits between which areas are taken."""


def value_of(run: FinishedRun, metric: str, span: Span | None) -> float | None:
    """Return the value of a metric: `area`, `stages.K.KEY` of stage K, or a key of the summary's test row.

    None if it is missing or not finite.
    """
    if metric == "area":
        return _area(run, span)
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
    close = nearest(metric, [*known, "area"])
    if any(metric in names for names in SHARED.values()):
        close = f"To measure a run of an earlier version again: vqtk run --resume {missing[0].path}. "
    raise VqtkError(
        f"--metric {metric}: {missing[0].path} does not have this metric. {close}Expected area, stages.K.distortion "
        f"for a stage K, or one of {', '.join(known)}."
    )


def _area(run: FinishedRun, span: Span | None) -> float | None:
    curve = _curve(run)
    if span is None or len(curve) < 2:
        return None
    bits, distortion = zip(*curve, strict=True)
    return area(bits, distortion, low=span[0], high=span[1])


def _curve(run: FinishedRun) -> list[tuple[float, float]]:
    return [
        (row["bits"], row["distortion"]) for row in run.summary["stages"] if finite(row.get("distortion")) is not None
    ]


def finite(value: Any) -> float | None:
    """Return a number as such; None for anything else, and for what is not finite."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return float(value) if known else None
