"""A backbone: from a reconstruction, as channels, to features.

In a recipe: `plugins: [example.py]`, and `backbone: {name: example, width: 64}` in `model.refiner`.
"""

from torch import Tensor
from torch.nn import ModuleList
from torch.nn import functional as F

from vqtk.nn.convolution import convolution
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.registry import ConditionFactory, backbones


@backbones.register("example", example={"width": 8, "halvings": 1})
class Example(StageModule):
    """Convolutions with stride 2, each followed by the stage condition and a ReLU.

    Shapes: input (n, in_width, *size) → (n, width, *size halved `halvings` times, rounded up); 1, 2 or 3 dimensions.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        width: Count = 64,
        halvings: Count = 2,
        condition: ConditionFactory,
    ):
        layers, conditions = [], []
        for _ in range(halvings):
            layer, size = convolution(in_width, width, size, kernel=3, stride=2)
            layers.append(layer)
            conditions.append(condition(width, stages))
            in_width = width
        super().__init__(width, size)  # The channels and size of the output.
        self.layers, self.conditions = ModuleList(layers), ModuleList(conditions)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the convolutions in order."""
        for layer, condition in zip(self.layers, self.conditions, strict=True):
            features = F.relu(condition(layer(features), stage))
        return features
