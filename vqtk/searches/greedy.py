"""The paper's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from vqtk.registry import searches

if TYPE_CHECKING:
    from vqtk.models.vqdraw import VQDraw


@searches.register("greedy")
class Greedy:
    """Take the best option at each stage, without looking ahead.

    Shapes: target (n, *data shape) → codes (n, stages).
    Source: VQ-DRAW, algorithm 1.
    """

    def __call__(self, model: VQDraw, target: Tensor) -> Tensor:
        """Encode."""
        return model.walk(target).codes
