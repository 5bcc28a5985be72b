"""A stage-selection loss: the score of every option, which training minimises.

In a recipe: `plugins: [example.py]`, and `loss: {name: example, bend: 0.5}` in `model`.
"""

from torch import Tensor
from torch.nn import functional as F

from vqtk.losses import Loss
from vqtk.nn.types import DataSpec, Positive
from vqtk.registry import losses


@losses.register("example")
class Example(Loss):
    """The Huber loss over the values of an example: quadratic up to a difference of `bend`, linear beyond.

    Shapes: reconstruction as the data, (c, *size).
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, data: DataSpec, *, bend: Positive = 1.0):
        channels, *size = data.shape
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))
        self.bend = bend

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid: proposals (n, k, *shape), target (n, *data shape) → (n, k)."""
        differences = F.huber_loss(proposals, target[:, None].expand_as(proposals), reduction="none", delta=self.bend)
        return differences.flatten(2).mean(2)
