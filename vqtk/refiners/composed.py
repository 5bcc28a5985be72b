"""A refiner composed of a backbone, blocks and a head."""

import torch
from torch import Tensor, nn

from vqtk.backbones import Rise, SkipBackbone
from vqtk.errors import ShapeError
from vqtk.heads import Factors
from vqtk.nn.stage import OptionRows, StageSequential, State, chosen_of
from vqtk.nn.types import Size
from vqtk.refiners._base import Choice, Judge, Refiner
from vqtk.registry import BackboneFactory, BlockFactory, HeadFactory, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
}


@refiners.register("composed", example=_EXAMPLE, staged=True)
class Composed(Refiner):
    """A backbone extracts features from the reconstruction, blocks refine them, and a head turns them into deltas.

    The downward half of a U-Net backbone is applied before the blocks, its upward half after them. `output_scale` is
    the initial value of a learned scalar that multiplies the deltas. With `zero_output`, the deltas are zero before
    training: the model starts from its biases. A refiner that carries a state from stage to stage extends this one by
    `features`, `carry` and `advance`.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size).
    Raises: ShapeError if the components do not fit together.
    Source: VQ-DRAW, all refiners.
    """

    carried: int = 0
    """Channels that a subclass adds to the features before the blocks; it sets them before it calls `__init__`."""

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
        zero_output: bool = False,
    ):
        super().__init__()
        self.output_scale = nn.Parameter(torch.tensor(output_scale))
        self.backbone = backbone(in_width, size, stages)
        self.blocks = StageSequential(self.backbone.width + self.carried, self.backbone.size)
        for block in blocks:
            self.blocks.append(block(self.blocks.width, self.blocks.size, stages))
        last: StageSequential | Rise = self.blocks
        self.rise: Rise | None = None
        if isinstance(self.backbone, SkipBackbone):
            last = self.rise = self.backbone.rise(self.blocks.width, self.blocks.size, stages)
        self.head = head(last.width, last.size, stages, options, out_channels)
        self.size = self.head.size
        if zero_output:
            self._zero_output(stages)

    def _zero_output(self, stages: int) -> None:
        rows = [row for stage in range(stages) for row in self.head.option_rows(stage)]
        if not rows:
            raise ShapeError(
                f"`zero_output`: the head {type(self.head).__name__} does not say which of its parameters belong to "
                "the options. Use the head conv, conv_per_stage, subpixel or lowrank, or set `zero_output: false`."
            )
        for row in rows:
            nn.init.zeros_(row.parameter)

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return those of the head."""
        return self.head.option_rows(stage)

    def features(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return the features for the head; a subclass with a state reads it here."""
        skips = None
        if self.rise is None:
            features = self.backbone(x, stage)
        else:
            features, skips = self.backbone.descend(x, stage)
        for block in self.blocks.layers:
            features = block(features, stage)
        return features if self.rise is None else self.rise(features, skips, stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return what `advance` needs after the stage; None without a state."""
        return None

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas, and what `advance` needs."""
        features = self.features(x, stage, state)
        return self.head.scaled(features, stage, self.output_scale), self.carry(features, stage, state)

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, computed by the head's `choose`, and what `advance` needs."""
        features = self.features(x, stage, state)
        return self.head.choose(features, stage, codes) * self.output_scale, self.carry(features, stage, state)

    def choose_many(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the deltas of several options, computed by the head's `choose`, and what `advance` needs.

        A subclass that overrides `propose` may compute other deltas than the head, so it gets the general way.
        """
        if type(self).propose is not Composed.propose:
            return super().choose_many(x, stage, state, codes)
        return self.choose(x, stage, state, codes)

    def choose_by(self, x: Tensor, stage: int, state: State, judge: Judge) -> Choice:
        """Propose, choose by the judge, and return the chosen deltas; the features are computed once.

        A subclass that overrides `propose` gets the general way, as in `choose_many`.
        """
        if type(self).propose is not Composed.propose:
            return super().choose_by(x, stage, state, judge)
        features = self.features(x, stage, state)
        carry = self.carry(features, stage, state)
        with torch.no_grad():
            deltas = self.head.scaled(features, stage, self.output_scale)
            grid, codes = judge(deltas)
        if not torch.is_grad_enabled():
            return chosen_of(deltas, codes), grid, codes, carry
        return self.head.choose(features, stage, codes) * self.output_scale, grid, codes, carry

    def has_factors(self, n: int) -> bool:
        """Return whether the head has them."""
        return type(self).propose is Composed.propose and self.head.has_factors(n)

    def factors(self, x: Tensor, stage: int, state: State) -> tuple[Factors, State]:
        """Return all deltas as the head's factors, and what `advance` needs."""
        features = self.features(x, stage, state)
        return self.head.factors(features, stage, self.output_scale), self.carry(features, stage, state)
