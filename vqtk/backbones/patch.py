"""Patch embedding, which divides the size in one step, as at the start of vision transformers."""

from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import LayerUnit, Operation, Unit
from vqtk.registry import ConditionFactory, backbones

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PATCHES = {
    1: "n c (x i) -> n x (c i)",
    2: "n c (y i) (x j) -> n y x (c i j)",
    3: "n c (z i) (y j) (x l) -> n z y x (c i j l)",
}
"""For each number of dimensions, how a position's patch becomes a row."""


@backbones.register("patch", example={"patch": 2, "width": 8})
class PatchBackbone(StageModule):
    """A linear map from each patch to a feature vector, then the stage condition and learned positions.

    `patch` is the length of a patch along each axis; it must divide the size, because nothing is padded. `then` are the
    operations after the map, as in a layer unit; without `positions` among them, no positions are learned.

    Shapes: input (n, in_width, *size) → (n, width, *size divided by `patch`); 1, 2 or 3 dimensions.
    Raises: ShapeError if the patch does not divide the size, or a norm does not fit.
    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        patch: Count,
        width: Count,
        then: list[Operation] = ["condition", "positions"],
        condition: ConditionFactory,
    ):
        if not 1 <= len(size) <= 3:
            raise ShapeError(
                f"patches have 1, 2 or 3 dimensions, and the input has size {size}. Use the backbone `mlp` for vectors."
            )
        if any(length % patch for length in size):
            fits = [number for number in range(1, min(size) + 1) if not any(length % number for length in size)]
            raise ShapeError(
                f"patches of {patch} do not divide an input of size {size}. Set `patch` to one of "
                f"{', '.join(map(str, fits))}."
            )
        coarser = tuple(length // patch for length in size)
        super().__init__(width, coarser)
        self.patch = patch
        self.embed: Any = _CONVOLUTIONS[len(size) - 1](in_width, width, patch, stride=patch)
        self.then = LayerUnit(width, coarser, stages, Unit(then=then), condition)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Map each patch, and apply the operations."""
        # A product with each patch as a row: as a convolution, its backward pass takes four times as long on a CPU.
        rows = rearrange(features, _PATCHES[len(self.size)], **dict.fromkeys("ijl"[: len(self.size)], self.patch))
        embedded = F.linear(rows, self.embed.weight.flatten(1), self.embed.bias)
        return self.then(rearrange(embedded, "n ... w -> n w ..."), stage)
