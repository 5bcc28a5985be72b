"""A refiner: the network that proposes changes to a reconstruction, here with a state.

In a recipe: `plugins: [example.py]`, and in `model.refiner` `name: example` with a backbone, blocks and a head.
"""

import torch
from torch import Tensor

from vqtk.nn.stage import State
from vqtk.nn.types import Size
from vqtk.refiners.composed import Composed
from vqtk.registry import BackboneFactory, BlockFactory, HeadFactory, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
}


@refiners.register("example", example=_EXAMPLE, staged=True)
class Example(Composed):
    """The refiner `composed`, on the reconstruction and the last change to it.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size); the state is the last x.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        backbone: BackboneFactory,
        blocks: list[BlockFactory] = [],
        head: HeadFactory,
        output_scale: float = 0.1,
    ):
        super().__init__(
            2 * in_width,
            size,
            stages,
            options,
            out_channels,
            backbone=backbone,
            blocks=blocks,
            head=head,
            output_scale=output_scale,
        )

    def initial_state(self, like: Tensor) -> State:
        """Return the state before the first stage: a reconstruction of zeros."""
        return torch.zeros_like(like)

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and what `advance` needs."""
        deltas, _ = super().propose(torch.cat([x, x - state], 1), stage, None)
        return deltas, x

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, and what `advance` needs."""
        deltas, _ = super().choose(torch.cat([x, x - state], 1), stage, None, codes)
        return deltas, x

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the state of the next stage: the reconstruction before this stage's change."""
        return carry
