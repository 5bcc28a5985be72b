"""No stage conditioning, for comparison."""

from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("none")
class NoCondition(nn.Module):
    """Features as they are: the refiner does not learn which stage it is at.

    Shapes: features (n, width, *size) → the same.
    """

    def __init__(self, width: int, stages: int):
        super().__init__()

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return the features."""
        return features
