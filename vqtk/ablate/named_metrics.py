"""What a study compares its cells by."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from vqtk.errors import nearest
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
    "samples_frechet": "lower",
    "samples_kernel": "lower",
}
"""The metrics by name, and which way each is better."""
SAMPLES = {"samples_frechet": "frechet", "samples_kernel": "kid"}
"""Those of samples, which take a measurement of their own, by the names of the figures that it finds."""
SHARED = {"image": ("mse_pixels", "psnr_db"), "text": ("token_accuracy",), "voxels": ("iou",), "points": ("distance",)}
"""What reconstructions are worth in units that all losses share, by the kind of data, as `vqtk eval` measures it."""
_OF_THE_LOSS = {"final", "area", "choice", "all"}
_STAGE = re.compile(r"stages\.([1-9]\d*)\.distortion")


def is_of_the_loss(metric: str) -> bool:
    """Return whether a metric is in units of the loss, so that runs of different losses cannot be compared by it."""
    return metric in _OF_THE_LOSS or bool(_STAGE.fullmatch(metric))


@dataclass(frozen=True)
class Metric:
    """A figure of the test items, and whether `lower` or `higher` is better."""

    name: str
    better: str

    @property
    def stage(self) -> int | None:
        """The stage whose distortion it is, if it is that of one stage."""
        found = _STAGE.fullmatch(self.name)
        return int(found[1]) if found else None

    def plain(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)


def metrics_of(node: Node | None, problems: Problems) -> list[Metric]:
    """Return the metrics that a study names, the main one first: final and area where it names none."""
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
            problems.add(child, f"metrics.{index}", f"{child.value!r} stands twice. Remove one.")
        metrics.append(Metric(child.value, BETTER.get(child.value, "lower")))
    return metrics
