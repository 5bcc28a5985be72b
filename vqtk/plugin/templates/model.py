"""A model: an encoder of data to discrete codes, and a decoder.

In a recipe: `plugins: [example.py]`, and `name: example` in `model`.
"""

from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import Count, DataSpec, Options, Stages
from vqtk.registry import ConditionFactory, LossFactory, RefinerFactory, SearchFactory, SelectorFactory, models

_EXAMPLE = {
    "stages": 4,
    "options": 4,
    "loss": "mse",
    "refiner": {
        "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
        "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    },
}


@models.register("example", example=_EXAMPLE)
class Example(VQDraw):
    """VQ-DRAW without a gradient from one stage to the next: each learns to improve the reconstruction it is given.

    Shapes: data (n, *data shape) in training units ↔ codes (n, stages) in [0, options) ↔ reconstructions (n, *shape).
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: LossFactory,
        condition: ConditionFactory,
        refiner: RefinerFactory,
        segment: Count | None = None,
        selector: SelectorFactory,
        search: SearchFactory,
    ):
        super().__init__(
            data,
            stages=stages,
            options=options,
            loss=loss,
            condition=condition,
            refiner=refiner,
            segment=segment,
            grad_decay=1.0,
            selector=selector,
            search=search,
        )
