"""The residual bottleneck of the large original refiners."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import conditioned, norm
from vqtk.registry import ConditionFactory, blocks


@blocks.register("bottleneck")
class Bottleneck(StageModule):
    """Residual bottleneck: a 3×3 convolution, a 1×1 one to `expansion` times the width, and a 1×1 one back.

    Each is conditioned on the stage. `groups` are the numbers of groups of the norms before the three convolutions, or
    `layer` for layer norms.

    Shapes: features (n, in_width, *size) → the same; 1, 2 or 3 dimensions.
    Raises: ShapeError if the groups do not divide the widths.
    Source: VQ-DRAW, CIFAR-10, CelebA, ModelNet and text refiners.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        expansion: Count = 4,
        groups: list[Count] | Literal["layer"] = [8, 8, 32],
        dilation: Count = 1,
        condition: ConditionFactory,
    ):
        super().__init__(in_width, size)
        if groups != "layer" and len(groups) != 3:
            raise ShapeError(f"`groups` is {groups}: expected three numbers, one for each norm, or `layer`.")
        kinds = ["layer"] * 3 if groups == "layer" else groups
        wide = expansion * in_width
        self.layers = nn.ModuleList()
        for kind, before, after, kernel, spacing in (
            (kinds[0], in_width, in_width, 3, dilation),
            (kinds[1], in_width, wide, 1, 1),
            (kinds[2], wide, in_width, 1, 1),
        ):
            self.layers.append(norm(kind, before, size))  # type: ignore[arg-type]
            self.layers.append(convolution(before, after, size, kernel=kernel, dilation=spacing)[0])
            self.layers.append(condition(after, stages))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the three normalised, conditioned convolutions, and add the input."""
        x = features
        for index in range(0, len(self.layers), 3):
            normalise, convolve, condition = self.layers[index : index + 3]
            x = conditioned(convolve, condition, normalise(F.relu(x)), stage)
        return features + x
