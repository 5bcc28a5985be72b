"""A guide: a loss by which a trained model is led, without training, in place of a whole target.

On the command line: `vqtk complete mnist example ink=0.3 --plugin example.py`.
"""

from torch import Tensor

from vqtk.guides import Guide
from vqtk.models import Model
from vqtk.nn.types import Fraction
from vqtk.registry import guides


@guides.register("example")
class Example(Guide):
    """As bright on average as `ink` says, from 0 to 1; nothing else is asked of the picture.

    Shapes: proposals (n, k, *data shape) in training units → grid (n, k).
    """

    observes = False

    # What stands before the `*` is supplied by the toolkit; what stands behind it is what a user may set.
    def __init__(self, model: Model, *, ink: Fraction = 0.2):
        super().__init__(model)
        self.ink = ink

    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return how far each option's brightness is from what is asked, squared."""
        return (self.data.pixels(proposals).flatten(2).mean(2) - self.ink).square()
