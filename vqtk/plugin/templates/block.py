"""A block of a refiner: from features to features.

In a recipe: `plugins: [example.py]`, and `{name: example, kernel: 5}` in `model.refiner.blocks`.
"""

from torch import Tensor
from torch.nn import functional as F

from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.registry import ConditionFactory, blocks


@blocks.register("example")
class Example(StageModule):
    """A residual convolution of the rectified features, conditioned on the stage.

    Shapes: features (n, in_width, *size) → the same; 1, 2 or 3 dimensions.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, in_width: int, size: Size, stages: int, *, kernel: Count = 3, condition: ConditionFactory):
        super().__init__(in_width, size)  # The channels and size of the output.
        self.convolution, _ = convolution(in_width, in_width, size, kernel=kernel)
        self.condition = condition(in_width, stages)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Convolve, condition and add."""
        return features + self.condition(self.convolution(F.relu(features)), stage)
