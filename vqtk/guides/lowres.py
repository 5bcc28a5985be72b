"""Super-resolution: only a coarse image is seen."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.guides._base import Guide
from vqtk.models import Model
from vqtk.registry import guides


@guides.register("lowres", example={"factor": 2})
class Lowres(Guide):
    """The mean squared error of means over squares of `factor` × `factor` pixels, which are all that is seen.

    Shapes: proposals (n, k, c, h, w), observed (n, c, h / factor, w / factor) → (n, k), in training units squared.
    Raises: ShapeError if `factor` does not divide the sides of the images.
    """

    def __init__(self, model: Model, *, factor: Annotated[int, Ge(2)] = 4):
        super().__init__(model)
        self.factor = factor
        height, width = self.data.shape[1:]
        if height % factor or width % factor:
            common = [str(other) for other in range(2, min(height, width) + 1) if not (height % other or width % other)]
            raise ShapeError(
                f"`factor` is {factor}, and the images are {width}×{height} pixels. Give a number that divides both "
                f"sides: {', '.join(common) or 'there is none'}."
            )

    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid."""
        coarse = self.observed(proposals.flatten(0, 1)).unflatten(0, proposals.shape[:2])
        return (coarse - observed[:, None]).square().flatten(2).mean(2)

    def observed(self, targets: Tensor) -> Tensor:
        """Return the means over squares."""
        return F.avg_pool2d(targets, self.factor)

    def seen(self, observed: Tensor) -> Tensor:
        """Return the means as squares of one colour each."""
        return F.interpolate(super().seen(observed), scale_factor=self.factor, mode="nearest")
