"""A transformer as the refiner of text.

An example of a refiner written from scratch, for one kind of data; only its head is from the toolkit.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.heads.conv import ConvHead
from vqtk.nn.convolution import convolution
from vqtk.nn.stage import State
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import Positions
from vqtk.refiners import Refiner
from vqtk.registry import ConditionFactory, refiners

_EXAMPLE = {"width": 8, "depth": 1, "heads": 2}
_DATA = {"name": "wikitext2", "length": 8, "vocabulary": 5}


class Layer(nn.Module):
    """Attention over all positions, then two linear maps: both are residual branches that start with a norm.

    Shapes: features (n, length, width) → the same.
    """

    def __init__(self, width: int, stages: int, *, heads: int, expansion: int, condition: ConditionFactory):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.conditions = nn.ModuleList(condition(width, stages) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.joined = nn.Linear(width, width)
        self.wide = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply both branches."""
        for norm, part, condition in zip(self.norms, (self._attend, self._map), self.conditions, strict=True):
            change = rearrange(part(norm(features)), "n l w -> n w l")
            features = features + rearrange(condition(change, stage), "n w l -> n l w")
        return features

    def _attend(self, features: Tensor) -> Tensor:
        together = self.queries_keys_values(features)
        q, k, v = rearrange(together, "n l (three h w) -> three n h l w", three=3, h=self.heads)
        return self.joined(rearrange(F.scaled_dot_product_attention(q, k, v), "n h l w -> n l (h w)"))

    def _map(self, features: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.wide(features)))


@refiners.register("attention_text", example=_EXAMPLE, data=_DATA, dimensions=(1,), staged=True)
class AttentionText(Refiner):
    """A transformer with `depth` layers, learned positions, and norms at the start of each branch.

    The number of `heads` must divide the `width`; the linear maps of a layer have `expansion` times the width inside.
    `output_scale` is the initial value of a learned scalar that multiplies the deltas.

    Shapes: x (n, in_width, length) → deltas (n, options, out_channels, length).
    Raises: ShapeError if the data are not a sequence, or the heads do not divide the width.
    Source: Vaswani et al. 2017, Attention Is All You Need; Xiong et al. 2020 for the position of the norms. The text
    refiner of the original implementation was such a transformer, with the norms last, before it was convolutional.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        width: Count = 128,
        depth: Count = 6,
        heads: Count = 4,
        expansion: Count = 4,
        output_scale: float = 0.1,
        condition: ConditionFactory,
    ):
        super().__init__()
        if len(size) != 1 or width % heads:
            raise ShapeError(
                f"attention_text needs a sequence, and a width that is a multiple of the heads; it was given size "
                f"{size}, {heads} heads and width {width}. Use it for text, and change `width` or `heads`."
            )
        self.size = size
        self.output_scale = nn.Parameter(torch.tensor(output_scale))
        self.embed, _ = convolution(in_width, width, size, kernel=1)
        self.positions = Positions(width, size)
        self.layers = nn.ModuleList(
            Layer(width, stages, heads=heads, expansion=expansion, condition=condition) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = ConvHead(width, size, stages, options, out_channels, kernel=1, condition=condition)

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas; there is no state."""
        return self.head.scaled(self._features(x, stage), stage, self.output_scale), None

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas, computed with only the filters of the chosen options."""
        return self.head.choose(self._features(x, stage), stage, codes) * self.output_scale, None

    def _features(self, x: Tensor, stage: int) -> Tensor:
        features = rearrange(self.positions(self.embed(x)), "n w l -> n l w")
        for layer in self.layers:
            features = layer(features, stage)
        return rearrange(self.norm(features), "n l w -> n w l")
