"""A guide: a loss that leads a trained model through its stages when no complete target is known.

On the command line: `vqtk complete mnist example ink=0.3 --plugin example.py`.
"""

from torch import Tensor

from vqtk.guides import Guide
from vqtk.models import Model
from vqtk.nn.types import Fraction
from vqtk.registry import guides


@guides.register("example")
class Example(Guide):
    """The squared difference between the mean brightness of an image and `ink`, from 0 to 1.

    Shapes: proposals (n, k, *data shape) in training units → grid (n, k).
    """

    observes = False

    # The toolkit supplies the parameters before the `*`; a user may set those after it.
    def __init__(self, model: Model, *, ink: Fraction = 0.2):
        super().__init__(model)
        self.ink = ink

    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid."""
        return (self.data.pixels(proposals).flatten(2).mean(2) - self.ink).square()
