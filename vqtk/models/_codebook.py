"""A codebook that revives unused vectors, and a prior over codes."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import VqtkError
from vqtk.models._code_models import Autoregressive

PATIENCE = 50
"""The number of consecutive updates without a choice after which a vector is replaced."""
SPLIT = 0.01
"""How far the two halves of a split vector move from it, as a fraction of its length."""


class Codebook(nn.Module):
    """Learned vectors (options, width), and the search for the nearest.

    A vector that was not chosen for `PATIENCE` updates is revived by splitting one of the most used ones into two, a
    little longer and a little shorter, so that each takes half of what the other represented. Nothing is random.

    Raises: VqtkError if vector-quantize-pytorch is not installed.
    Source: van den Oord et al. 2017, arXiv 1711.00937; the split, Linde, Buzo and Gray 1980.
    """

    def __init__(self, options: int, width: int):
        super().__init__()
        if find_spec("vector_quantize_pytorch") is None:
            raise VqtkError(
                "models with a codebook need vector-quantize-pytorch, which is not installed. Run: pip install "
                "'vqtk[baselines]'."
            )
        from vector_quantize_pytorch import VectorQuantize

        self.quantiser = VectorQuantize(width, options, learnable_codebook=True, ema_update=False, freeze_codebook=True)
        self.idle: Tensor
        self.register_buffer("idle", torch.zeros(options, dtype=torch.int64))

    @property
    def vectors(self) -> nn.Parameter:
        """The learned vectors, (1, options, width)."""
        return next(self.quantiser.parameters())

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the index of the learned vector nearest to each vector (n, p, width) → (n, p)."""
        if vectors.is_meta:
            # The library's search reads a value, which tensors on `meta` lack: do the same product, so that it counts.
            return (vectors @ self.vectors[0].mT).argmax(2)
        return self.quantiser(vectors.detach())[1]

    def forward(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes (n, p) → (n, p, width)."""
        return F.embedding(codes, self.vectors[0])

    @torch.no_grad()
    def revive(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Count an update's choices (k,), and replace vectors unused for too long by halves of the most used ones.

        The optimiser's moments of the vectors are copied as well.
        """
        self.idle.add_(1).masked_fill_(usage > 0, 0)
        dead = (self.idle >= PATIENCE).nonzero()[:, 0]
        used = usage.argsort(descending=True, stable=True)[: int((usage > 0).sum())]
        dead, used = dead[: len(used)], used[: len(dead)]
        for value in (self.vectors, *optimizer.state.get(self.vectors, {}).values()):
            if isinstance(value, Tensor) and value.shape == self.vectors.shape:
                value[0, dead] = value[0, used]
        self.vectors[0, dead] *= 1 - SPLIT
        self.vectors[0, used] *= 1 + SPLIT
        self.idle[dead] = 0


class Prior(nn.Module):
    """p(codes), autoregressive over the stages."""

    def __init__(self, width: int, stages: int, options: int):
        super().__init__()
        self.width, self.stages = width, stages
        self.codes = Autoregressive(width, stages, options)

    def nats(self, codes: Tensor) -> Tensor:
        """Return the negative log-likelihood of each stage's code (n, s) → (n, s), in nats."""
        return self.codes.nats(self._nothing(len(codes)), codes)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Return n codes (n, s), drawn on the CPU."""
        state, entering, codes = self.codes.initial.repeat(1, n, 1), self._nothing(n), []
        for _ in range(self.stages):
            hidden, state = self.codes.gru(entering[:, None], state)
            chances = self.codes.output(hidden[:, 0]).softmax(1).cpu()
            codes.append(torch.multinomial(chances, 1, generator=generator)[:, 0].to(state.device))
            entering = self.codes.embedding(codes[-1])
        return torch.stack(codes, 1)

    def _nothing(self, n: int) -> Tensor:
        return self.codes.initial.new_zeros(n, self.width)
