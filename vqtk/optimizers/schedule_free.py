"""AdamW that needs no schedule."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt, Len, Lt, doc
from torch import nn

from vqtk.errors import VqtkError
from vqtk.nn.types import NonNegative, Positive
from vqtk.registry import optimizers

_Betas = Annotated[list[Annotated[float, Gt(0), Lt(1)]], Len(2, 2), doc("a list of two numbers > 0 and < 1")]
try:
    from schedulefree import AdamWScheduleFree as _AdamW
except ImportError:

    class _AdamW:  # type: ignore[no-redef]
        def __init__(self, *_: Any, **__: Any):
            raise VqtkError(
                "the optimizer schedule_free needs schedulefree, which is not installed. Run: pip install "
                "'vqtk[schedule_free]'."
            )


@optimizers.register("schedule_free")
class ScheduleFree(_AdamW):
    """AdamW that averages weights instead of lowering the learning rate; use it with the schedule `constant`.

    Gradients are computed at an interpolation between the averaged and the newest weights, by the first of `betas`. The
    averaged ones are evaluated, drawn and saved. A `warmup` of the schedule is taken into account in the average.
    Needs the extra `schedule_free`.

    Raises: VqtkError if the extra is not installed.
    Source: Defazio et al. 2024, arXiv 2405.15682, and its package schedulefree.
    """

    elementwise = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Positive = 2.5e-3,
        betas: _Betas = [0.9, 0.999],
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.0,
    ):
        first, second = betas
        super().__init__(model.parameters(), lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay)
        self.train()
