"""Mean absolute error as the stage-selection loss.

The smallest example of a loss: it keeps the parameterisation of the data, and scores every option.
"""

from torch import Tensor

from vqtk.losses import Loss
from vqtk.nn.types import DataSpec
from vqtk.registry import losses


@losses.register("l1")
class L1(Loss):
    """Mean absolute error over the values of an example, in training units.

    Up to a constant it is the negative log density of a Laplace distribution with a fixed scale.

    Shapes: reconstruction as the data, (c, *size).
    """

    def __init__(self, data: DataSpec):
        channels, *size = data.shape
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid."""
        return (proposals - target[:, None]).abs().flatten(2).mean(2)
