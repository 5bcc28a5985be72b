"""A refiner that starts coarse: early stages propose changes at a low resolution, later ones at the full resolution.

The position and brightness of an object need few pixels, and a network at a quarter of the size does a sixteenth of
the work. Each level has its own network.
"""

from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.stage import State
from vqtk.nn.types import Count, Size
from vqtk.refiners import Refiner
from vqtk.refiners.composed import Composed
from vqtk.registry import BackboneFactory, BlockFactory, HeadFactory, refiners

_EXAMPLE = {
    "levels": [
        {
            "factor": 2,
            "stages": 2,
            "backbone": {"name": "conv", "layers": [{"width": 8}]},
            "head": "conv",
        },
        {
            "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
            "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
        },
    ]
}


@dataclass(frozen=True)
class Level:
    """A network for `stages` stages (null: all that remain), at the size of the data divided by `factor`."""

    backbone: BackboneFactory
    head: HeadFactory
    blocks: list[BlockFactory] = field(default_factory=list)
    factor: Count = 1
    stages: Count | None = None


@refiners.register("coarse_to_fine", example=_EXAMPLE, staged=True)
class CoarseToFine(Refiner):
    """One composed refiner for each level, on the downsampled reconstruction; its deltas are upsampled.

    The levels take their stages in order, and levels beyond the last stage are not built. Downsampling averages, and
    upsampling interpolates linearly.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size).
    Raises: ShapeError if a factor does not divide the size, a network does not keep it, or stages have no level.
    Source: Denton et al. 2015, LAPGAN, arXiv 1506.05751; Tian et al. 2024, VAR, arXiv 2404.02905, for residual codes
    from coarse scales to fine ones.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        levels: list[Level],
        output_scale: float = 0.1,
    ):
        super().__init__()
        self.size = size
        self.networks = nn.ModuleList()
        self.places: list[tuple[int, int]] = []
        for index, level in enumerate(levels):
            remaining = stages - len(self.places)
            taken = min(level.stages or remaining, remaining)
            if taken == 0:
                break
            network = Composed(
                in_width,
                _divided(size, level.factor, index),
                taken,
                options,
                out_channels,
                backbone=level.backbone,
                blocks=level.blocks,
                head=level.head,
                output_scale=output_scale,
            )
            _check_size(network.size, _divided(size, level.factor, index), index)
            self.networks.append(network)
            self.places += [(index, stage) for stage in range(taken)]
        if len(self.places) < stages:
            raise ShapeError(
                f"the levels have {len(self.places)} of {stages} stages. Leave out `stages` at the last level, which "
                "then takes all that remain."
            )

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, computed at the stage's level."""
        network, local = self._place(stage)
        deltas, _ = network.propose(self._down(x, network.size), local, None)
        return self._up(deltas.flatten(0, 1)).unflatten(0, deltas.shape[:2]), None

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas; only these are computed and upsampled."""
        network, local = self._place(stage)
        return self._up(network.choose(self._down(x, network.size), local, None, codes)[0]), None

    def _place(self, stage: int) -> tuple[Composed, int]:
        """Return the network of a stage, and the stage's index within its level."""
        index, local = self.places[stage]
        return cast(Composed, self.networks[index]), local

    def _down(self, x: Tensor, size: Size) -> Tensor:
        return x if size == self.size else F.interpolate(x, size, mode="area")

    def _up(self, deltas: Tensor) -> Tensor:
        if deltas.shape[2:] == self.size:
            return deltas
        mode = ("linear", "bilinear", "trilinear")[len(self.size) - 1]
        return F.interpolate(deltas, self.size, mode=mode, align_corners=False)


def _divided(size: Size, factor: int, index: int) -> Size:
    if any(length % factor for length in size):
        raise ShapeError(f"level {index}: `factor` {factor} does not divide the size {size}. Choose a divisor.")
    return tuple(length // factor for length in size)


def _check_size(reached: Size, expected: Size, index: int) -> None:
    if tuple(reached) != expected:
        raise ShapeError(
            f"level {index}: its head returns size {reached}, but the level has size {expected}. Change the strides of "
            "its backbone or the `upsample` units of its head."
        )
