"""No stage conditioning, for comparison."""

from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("none")
class NoCondition(nn.Module):
    """Leave features unchanged, so that the refiner does not know the stage.

    Shapes: features (n, width, *size) → the same.
    """

    def __init__(self, width: int, stages: int):
        super().__init__()

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return the features."""
        return features
