"""A codebook that follows the encoder's vectors, and a prior over codes."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import VqtkError
from vqtk.models._code_models import Autoregressive

CodebookKind = Literal["ema", "gradient"]
Decay = Annotated[float, Ge(0), Lt(1)]


class Codebook(nn.Module):
    """Vectors (options, width), and the search for the nearest; `VectorQuantize` of vector-quantize-pytorch moves them.

    They start as the centres that k-means finds among the first update's vectors. After each update a vector is the
    moving average of those that chose it, or it is a parameter (`learned`), which the optimiser moves. A vector whose
    average number of choices in an update falls below `dead_below` is replaced by one of the update's, drawn at random.
    A pass changes nothing: vectors move in `start` and `update` only.

    Raises: VqtkError if vector-quantize-pytorch is not installed.
    Source: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1 for the averages.
    """

    def __init__(self, options: int, width: int, *, learned: bool, decay: float, dead_below: float):
        super().__init__()
        if find_spec("vector_quantize_pytorch") is None:
            raise VqtkError(
                "models with a codebook need vector-quantize-pytorch, which is not installed. Run: pip install "
                "'vqtk[baselines]'."
            )
        from vector_quantize_pytorch import VectorQuantize

        self.quantiser = VectorQuantize(
            width,
            options,
            kmeans_init=True,
            ema_update=not learned,
            learnable_codebook=learned,
            decay=decay,
            threshold_ema_dead_code=dead_below,
            sync_codebook=False,  # With several processes, each has the vectors of all: the library would add them up.
        )
        with torch.no_grad():  # The library's vectors are 0 until k-means has run.
            self.quantiser.codebook = torch.randn(options, width)

    @property
    def vectors(self) -> Tensor:
        """The vectors (options, width)."""
        return self.quantiser.codebook

    @property
    def started(self) -> bool:
        """Whether k-means has found the first vectors."""
        return bool(self.quantiser.get_buffer("_codebook.initted"))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the index of the codebook's vector nearest to each vector (n, p, width) → (n, p)."""
        own = self.vectors
        with nullcontext() if vectors.is_meta else torch.autocast(vectors.device.type, enabled=False):
            return (own.square().sum(1) - 2 * vectors @ own.mT).argmin(2)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes (n, p) → (n, p, width)."""
        return F.embedding(codes, self.vectors)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Replace the vectors by the centres of k-means among vectors (n, p, width), drawn by torch's own generator."""
        few = -(-len(self.vectors) // vectors[..., 0].numel())  # With fewer of them than options, each counts again.
        self.quantiser.eval()(vectors.repeat(few, 1, 1))  # k-means runs in the library's first call.
        self.quantiser.train()

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Move towards vectors (n, p, width) with codes (n, p), and replace dead vectors by torch's own generator."""
        self.quantiser.update_indices(vectors, codes)


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
