"""Self-attention over the positions of a feature map."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import ChannelNorm, Positions
from vqtk.registry import ConditionFactory, blocks


@blocks.register("attention")
class Attention(StageModule):
    """A transformer block: self-attention over all positions, then a two-layer network at each position.

    Both are residual branches that start with a norm over the channels of each position, whose output is conditioned on
    the stage. `positions` adds a learned value for every channel and position before attention, which otherwise treats
    positions as a set. The two layers have a GELU between them and `expansion` times the width inside. Time and memory
    grow with the square of the number of positions.

    Shapes: features (n, in_width, *size) → the same; 1, 2 or 3 dimensions.
    Raises: ShapeError if the heads do not divide the width, or the features are vectors.
    Source: Vaswani et al. 2017; Dosovitskiy et al. 2021; conditioned after the norms as by Peebles and Xie 2023.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        heads: Count = 4,
        expansion: Count = 4,
        positions: bool = True,
        condition: ConditionFactory,
    ):
        super().__init__(in_width, size)
        if not size:
            raise ShapeError("attention works in 1, 2 or 3 dimensions; a vector is one position. Use a `conv` block.")
        if in_width % heads:
            raise ShapeError(f"{heads} heads do not divide {in_width} channels. Choose a divisor of {in_width}.")
        self.heads = heads
        self.norms = nn.ModuleList(ChannelNorm(in_width) for _ in range(2))
        self.conditions = nn.ModuleList(condition(in_width, stages) for _ in range(2))
        self.positions = Positions(in_width, size) if positions else nn.Identity()
        # No bias: the softmax is invariant to a bias of the keys.
        self.project = nn.Linear(in_width, 3 * in_width, bias=False)
        self.merge = nn.Linear(in_width, in_width)
        wide = expansion * in_width
        self.layers = nn.Sequential(nn.Linear(in_width, wide), nn.GELU(), nn.Linear(wide, in_width))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Attend, then apply the two layers, each added to its input."""
        seen = rearrange(self.positions(self._normed(features, stage, 0)), "n c ... -> n (...) c")
        x = features + rearrange(self._attend(seen), "n p c -> n c p").reshape(features.shape)
        wise = rearrange(self._normed(x, stage, 1), "n c ... -> n ... c")
        return x + rearrange(self.layers(wise), "n ... c -> n c ...")

    def _normed(self, x: Tensor, stage: int, index: int) -> Tensor:
        return self.conditions[index](self.norms[index](x), stage)

    def _attend(self, x: Tensor) -> Tensor:
        """Attend over the positions: (n, p, c) → the same."""
        queries, keys, values = rearrange(self.project(x), "n p (three h c) -> three n h p c", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.merge(rearrange(attended, "n h p c -> n p (h c)"))
