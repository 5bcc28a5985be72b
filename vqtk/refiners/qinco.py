"""Codewords that a small network adapts to the reconstruction so far.

c = codewords[stage][option]                       a table of each stage
e = of_codeword(c) + of_reconstruction(x)          a linear map of both, as of [c; x]
e = e + down(relu(up(e)))                          for each block
delta = c + out(e)
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqtk.nn.stage import OptionRows, State
from vqtk.nn.types import Count, Layers, Positive, Size
from vqtk.refiners._base import Refiner
from vqtk.registry import refiners


@refiners.register("qinco", example={"width": 6, "hidden": 8, "blocks": 1}, dimensions=(0, 1, 2, 3), staged=True)
class QINCo(Refiner):
    """The delta of an option is its codeword, changed by a residual network that sees codeword and reconstruction.

    For vectors, and for images and feature maps, which are flattened. The network has `blocks` residual blocks, from
    `width` features to `hidden` ones and back. With `shared` all stages of a segment use one network; the codewords are
    each stage's own in any case. They start as normal noise of std `scale`. With `zero_last` the last layers start at
    0, so that at first each delta is its codeword, as in residual quantisation.

    The cost of all options is mostly that of the network for n × k pairs; `choose` and `choose_many` compute only what
    they are asked for.

    Arguments:
        codewords: the parameter (stages, options, values), with values = out_channels × the product of `size`.

    Shapes: x (n, in_width, *size) → deltas (n, options, out_channels, *size).
    Source: Huijben et al. 2024, Residual quantization with implicit neural codebooks, arXiv 2401.14732; the projections
    around the blocks, Vallaeys et al. 2025, QINCo2, arXiv 2501.03078.
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
        hidden: Count = 256,
        blocks: Layers = 2,
        shared: bool = False,
        zero_last: bool = True,
        scale: Positive = 0.1,
    ):
        super().__init__()
        self.shape = (out_channels, *size)
        entering, values = in_width * prod(size), prod(self.shape)
        networks = 1 if shared else stages
        self.codewords = nn.Parameter(scale * torch.randn(stages, options, values))
        # Not within the networks: at the first stage x is 0, and a weight for it alone would be without a gradient.
        bound = (values + entering) ** -0.5
        self.project = nn.Parameter(torch.empty(networks, width, values + entering).uniform_(-bound, bound))
        self.networks = nn.ModuleList(
            _Network(width, hidden, blocks, values, zero_last=zero_last) for _ in range(networks)
        )

    def propose(self, x: Tensor, stage: int, state: State) -> tuple[Tensor, State]:
        """Return all deltas."""
        return self._deltas(x, stage, None), None

    def choose(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the chosen deltas; the network computes no others."""
        return self._deltas(x, stage, codes[:, None])[:, 0], None

    def choose_many(self, x: Tensor, stage: int, state: State, codes: Tensor) -> tuple[Tensor, State]:
        """Return the deltas of several options for each example; the network computes no others."""
        return self._deltas(x, stage, codes), None

    def table(self, stage: int) -> OptionRows:
        """Return the codewords of a stage."""
        return OptionRows(self.codewords, stage)

    def guess(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return the codewords (1, options, out_channels, *size), without what the network adds."""
        return self.codewords[stage].unflatten(1, self.shape)[None]

    def _deltas(self, x: Tensor, stage: int, codes: Tensor | None) -> Tensor:
        """Return the deltas of options (n, m), by default of all: (n, m, *shape)."""
        which = stage if len(self.networks) > 1 else 0
        codewords = self.codewords[stage]
        of_codeword, of_reconstruction = self.project[which].tensor_split([codewords.shape[1]], 1)
        # The part of c is computed once for all examples, and that of x once for all options.
        seen = functional.linear(codewords, of_codeword)
        if codes is not None:
            codewords, seen = codewords[codes], seen[codes]
        features = seen + functional.linear(x.flatten(1), of_reconstruction)[:, None]
        return (codewords + self.networks[which](features)).unflatten(2, self.shape)


class _Network(nn.Module):
    """Residual blocks, and a map to values: (…, width) → (…, values)."""

    def __init__(self, width: int, hidden: int, blocks: int, values: int, *, zero_last: bool):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(blocks))
        self.out = nn.Linear(width, values)
        if zero_last:
            for layer in (*self.down, self.out):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            features = features + down(up(features).relu())
        return self.out(features)
