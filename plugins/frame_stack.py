"""A refiner that sees the last few reconstructions, stacked as channels.

An example of a refiner with a state: it holds the earlier reconstructions, as they entered the network.
"""

import torch
from torch import Tensor

from vqtk.nn.stage import State
from vqtk.nn.types import Count, Size
from vqtk.refiners.composed import Composed
from vqtk.registry import Inherited, refiners

_EXAMPLE = {
    "frames": 3,
    "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
}


@refiners.register("frame_stack", example=_EXAMPLE, staged=True)
class FrameStack(Composed):
    """The refiner `composed`, on the last `frames` reconstructions, the newest first.

    Missing ones are zero. With one frame it is the same as `composed`. The gradient through an earlier reconstruction
    is decayed by `grad_decay` at every stage that it has passed, like that of the newest one.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size); state (n, (frames - 1)·in_width, *size).
    Raises: ShapeError if the components do not fit together.
    Source: VQ-DRAW's refiner; frames stacked as in Mnih et al. 2015, Human-level control through deep reinforcement
    learning.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        frames: Count = 5,
        **composed: Inherited,
    ):
        super().__init__(frames * in_width, size, stages, options, out_channels, **composed)
        self.earlier = (frames - 1) * in_width

    def initial_state(self, like: Tensor) -> State:
        """Return zeros for the earlier reconstructions."""
        return like.new_zeros(len(like), self.earlier, *like.shape[2:])

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and the earlier reconstructions of the next stage."""
        stacked = torch.cat([x, state], 1)
        deltas, _ = super().propose(stacked, stage, None)
        return deltas, stacked[:, : self.earlier]

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, computed by the head's `choose`, and the earlier reconstructions."""
        stacked = torch.cat([x, state], 1)
        deltas, _ = super().choose(stacked, stage, None, codes)
        return deltas, stacked[:, : self.earlier]

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the earlier reconstructions; the new one enters the next stage as x."""
        return carry
