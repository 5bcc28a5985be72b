"""Colourisation: only a grey image is seen."""

from einops import einsum
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.guides._base import Guide
from vqtk.models import Model
from vqtk.registry import guides

LUMA = (0.299, 0.587, 0.114)


@guides.register("grey", example={})
class Grey(Guide):
    """The mean squared error of the luma of a colour image (ITU-R BT.601), which is all that is seen.

    Shapes: proposals (n, k, 3, h, w), observed (n, 1, h, w) → (n, k), in training units squared.
    Raises: ShapeError if the model's images have no colours.
    """

    def __init__(self, model: Model):
        super().__init__(model)
        if self.data.shape[0] != len(LUMA):
            raise ShapeError(
                f"grey guides models of colour images, and this model's have {self.data.shape[0]} channel. Use a model "
                "with three channels, or another guide, such as mask or lowres."
            )

    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid."""
        luma = self.observed(proposals.flatten(0, 1)).unflatten(0, proposals.shape[:2])
        return (luma - observed[:, None]).square().flatten(2).mean(2)

    def observed(self, targets: Tensor) -> Tensor:
        """Return the luma."""
        return einsum(targets, targets.new_tensor(LUMA), "n c h w, c -> n h w")[:, None]
