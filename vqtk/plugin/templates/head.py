"""A head: from features to the deltas of every option, or of chosen ones.

In a recipe: `plugins: [example.py]`, and `head: {name: example, hidden: 128}` in `model.refiner`. It keeps the size of
the features, so the backbone must not reduce it, unless the blocks have `upsample` units.
"""

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vqtk.heads import Head
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.nn.types import Count, Size
from vqtk.registry import ConditionFactory, heads


@heads.register("example", example={"hidden": 8})
class Example(Head):
    """A 3×3 convolution, conditioned on the stage, and a 1×1 convolution that computes the deltas of all options.

    Shapes: features (n, in_width, *size) → (n, options, out_channels, *size); 1, 2 or 3 dimensions.
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        hidden: Count = 64,
        condition: ConditionFactory,
    ):
        super().__init__(size)  # The size of the deltas.
        self.options = options
        self.hidden, _ = convolution(in_width, hidden, size, kernel=3)
        self.condition = condition(hidden, stages)
        self.output, _ = convolution(hidden, options * out_channels, size, kernel=1)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Return all deltas."""
        return rearrange(self.output(self._before(features, stage)), "n (k c) ... -> n k c ...", k=self.options)

    def choose(self, features: Tensor, stage: int, codes: Tensor) -> Tensor:
        """Return the chosen deltas, computed with only the filters of the chosen options; decoding uses this."""
        weight = rearrange(self.output.weight, "(k c) ... -> k c ...", k=self.options)
        bias = rearrange(self.output.bias, "(k c) -> k c", k=self.options)
        return chosen_convolution(self._before(features, stage), weight[codes], bias[codes])

    def _before(self, features: Tensor, stage: int) -> Tensor:
        return F.relu(self.condition(self.hidden(features), stage))
