"""A refiner whose options move the reconstruction towards a value, instead of adding to it.

An example of a refiner that turns another one's output into deltas, and keeps its own running reconstruction.
"""

from math import exp

import torch
from torch import Tensor

from vqtk.nn.stage import State, chosen_of
from vqtk.nn.types import Size
from vqtk.refiners.composed import Composed
from vqtk.registry import Inherited, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
}


@refiners.register("gated", example=_EXAMPLE, staged=True)
class Gated(Composed):
    """The refiner `composed`, with gates g and values v for each option, and the delta g·(v - r).

    r is the refiner's part of the reconstruction, as channels: the sum of its chosen deltas, without the model's bias
    of stage 0. So it works with any loss. g is a sigmoid with the bias `gate_bias`. Values are divided by the initial
    gate, so that with a low bias the initial deltas are nearly the additive ones, `output_scale` times the head's
    output.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size); state (n, out_channels, *size).
    Raises: ShapeError if the components do not fit together.
    Source: VQ-DRAW's refiner; gates as in Srivastava et al. 2015, Highway Networks.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        gate_bias: float = -3.0,
        **composed: Inherited,
    ):
        super().__init__(in_width, size, stages, options, 2 * out_channels, **composed)
        self.gate_bias = gate_bias
        self.gate_at_start = 1 / (1 + exp(-gate_bias))
        self.out_channels = out_channels

    def initial_state(self, like: Tensor) -> State:
        """Return a reconstruction of zeros (n, out_channels, *size)."""
        return like.new_zeros(len(like), self.out_channels, *self.size)

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and the state with these deltas for `advance`."""
        both, _ = super().propose(x, stage, None)
        deltas = self._gated(both, state[:, None], axis=2)
        return deltas, (state, deltas)

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, and the state with these as the only option for `advance`."""
        both, _ = super().choose(x, stage, None, codes)
        delta = self._gated(both, state, axis=1)
        return delta, (state, delta[:, None])

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the state with the chosen deltas added."""
        state, deltas = carry
        chosen = codes if deltas.shape[1] > 1 else torch.zeros_like(codes)
        return state + chosen_of(deltas, chosen)

    def _gated(self, both: Tensor, reconstruction: Tensor, *, axis: int) -> Tensor:
        values, gates = both.chunk(2, axis)
        return torch.sigmoid(gates + self.gate_bias) * (values / self.gate_at_start - reconstruction)
