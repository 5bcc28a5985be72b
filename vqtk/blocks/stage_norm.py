"""A normalisation with a scale and shift for each stage."""

from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.conditions.film import Film
from vqtk.errors import ShapeError
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.registry import blocks


@blocks.register("stage_norm", example={"groups": 2}, dimensions=(0, 1, 2, 3), staged=True)
class StageNorm(StageModule):
    """A group norm, then a learned scale and shift for each stage and channel, then a ReLU.

    One group is a layer norm over channels and size. `relu: false` leaves the ReLU out. The scales are initialised to
    1 + noise, the shifts to 0. The block is always conditioned on the stage, whatever the recipe's `condition`.

    Shapes: features (n, in_width, *size) → the same; any number of dimensions.
    Raises: ShapeError if the groups do not divide the width, or a group has a single value.
    Source: conditional normalisation, de Vries et al. 2017; here the statistics are those of each example.
    """

    def __init__(self, in_width: int, size: Size, stages: int, *, groups: Count = 1, relu: bool = True):
        super().__init__(in_width, size)
        if in_width % groups:
            raise ShapeError(f"{groups} groups do not divide {in_width} channels. Choose a divisor of {in_width}.")
        if in_width // groups * prod(size) == 1:
            raise ShapeError(
                f"{groups} groups of {in_width} channels of size {size} have one value each, which the norm would set "
                "to 0. Choose fewer groups."
            )
        # Not a batch norm: an example's code must not depend on its batch, and running statistics would mix the stages.
        self.norm = nn.GroupNorm(groups, in_width, affine=False)
        self.affine = Film(in_width, stages)
        self.relu = relu

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Normalise, scale and shift by the stage, and rectify."""
        x = self.affine(self.norm(features), stage)
        return F.relu(x) if self.relu else x
