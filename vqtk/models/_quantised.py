"""The base of models with learned codebooks: an image encoder and decoder, with quantised vectors between them.

target ─► encoder ─► vectors (n, p, d) ─► nearest vector of each codebook to the remaining residual ─► sum ─► decoder
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.models._base import Model
from vqtk.models._codebook import Codebook, CodebookKind, Decay, Prior
from vqtk.nn.types import Count, DataSpec, Layers, NonNegative, Options
from vqtk.registry import LossFactory

PriorKind = Literal["none", "autoregressive"]
SQUEEZED = 16
"""Channels of the coarse features if these are flattened into vectors without a position in the image."""


@dataclass(frozen=True)
class Nearest:
    """A quantised batch.

    `codes` are (n, stages), `encoded` (n, p, d) the encoder's vectors without a gradient, and `vectors` (n, p, d) the
    sums of the chosen vectors, with a gradient to the encoder: straight-through, or by the rotation trick. `codebook`
    and `commitment` are scalars, both the squared distance between the chosen vectors and what they approximate, as a
    mean over the codebooks: the first has a gradient for codebooks that are learned by gradient, the second for the
    encoder.
    """

    codes: Tensor
    encoded: Tensor
    vectors: Tensor
    codebook: Tensor
    commitment: Tensor


class Quantised(Model):
    """An example is `positions` vectors, each a sum of one vector of every codebook; stages = positions × codebooks.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    """

    def __init__(
        self,
        data: DataSpec,
        positions: int,
        codebooks: int,
        *,
        options: Options,
        loss: LossFactory,
        width: Count = 64,
        code_width: Count,
        blocks: Layers = 2,
        prior: PriorKind = "none",
        codebook: CodebookKind = "ema",
        decay: Decay = 0.8,
        dead_below: NonNegative = 0.05,
        rotation: bool = False,
    ):
        super().__init__(data, stages=positions * codebooks, options=options)
        if data.kind != "image" or any(side % 4 for side in data.shape[1:]):
            raise ShapeError(
                f"{self._name} needs images whose sides are multiples of 4, and the data are {data.kind} of shape "
                f"{data.shape}. Change data.size, or use another model."
            )
        channels, *size = data.shape
        coarse = tuple(side // 4 for side in size)
        self.loss = loss(data)
        self.positions, self.code_width = positions, code_width
        enter, leave = _vectors(width, coarse, positions, code_width)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            *(_Residual(width) for _ in range(blocks)), nn.ReLU(), enter,
        )  # fmt: skip
        self.learned, self.rotation = codebook == "gradient", rotation
        self.codebooks = nn.ModuleList(
            Codebook(options, code_width, learned=self.learned, decay=decay, dead_below=dead_below)
            for _ in range(codebooks)
        )
        self.decoder = nn.Sequential(
            leave, nn.Conv2d(width, width, 3, padding=1),
            *(_Residual(width) for _ in range(blocks)), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, self.loss.out_channels, 4, stride=2, padding=1),
        )  # fmt: skip
        self.prior = Prior(width, self.stages, options) if prior == "autoregressive" else None

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _books(self) -> list[Codebook]:
        return cast(list[Codebook], list(self.codebooks))

    def quantise(self, target: Tensor) -> Nearest:
        """Encode a target (n, c, h, w) and quantise it, with the losses of codebooks and encoder."""
        self._check_target(target)
        encoded = self.encoder(target).to(self.dtype)
        left, total, chosen = encoded, torch.zeros_like(encoded), []
        codebook, commitment = [], []
        for book in self._books:
            chosen.append(book.nearest(left))
            vectors = book(chosen[-1])
            codebook.append(F.mse_loss(vectors, left.detach()))
            commitment.append(F.mse_loss(left, vectors.detach()))
            left, total = left - vectors.detach(), total + vectors
        codes = rearrange(torch.stack(chosen, 2), "n p q -> n (p q)")
        passed = _rotated(encoded, total) if self.rotation else encoded + (total - encoded).detach()
        return Nearest(codes, encoded.detach(), passed, torch.stack(codebook).mean(), torch.stack(commitment).mean())

    @torch.no_grad()
    def encode(self, target: Tensor) -> Tensor:
        """Return the codes of a target (n, c, h, w) → (n, stages)."""
        return self.quantise(target).codes

    def reconstruct(self, vectors: Tensor) -> Tensor:
        """Return the reconstructions of vectors (n, positions, code_width) → (n, *shape)."""
        return self.loss.from_channels(self.decoder(vectors))

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes (n, s) → (n, *shape); s < stages only if there is one position.

        Raises: VqtkError if codes are missing, or a code is not an option.
        """
        self._check_codes(codes, most=self.stages)
        if codes.shape[1] != self.stages and self.positions > 1:
            raise ShapeError(
                f"codes of {codes.shape[1]} stages: {self._name} decodes only whole codes of {self.stages} stages."
            )
        total = next(self.parameters()).new_zeros(codes.shape[0], self.positions, self.code_width)
        for book, chosen in zip(self._books, self._by_codebook(codes), strict=False):
            total = total + book(chosen)
        return self.reconstruct(total)

    def code_nats(self, codes: Tensor) -> Tensor:
        """Return the negative log-likelihood of each stage's code, codes (n, stages) → (n, stages), in nats.

        It is taken under the prior, or under the uniform one (ln K) if the model has none.
        """
        if self.prior is not None:
            return self.prior.nats(codes)
        return torch.full(codes.shape, float(self.options), dtype=self.dtype, device=codes.device).log()

    def random_codes(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return codes (n, stages) drawn from the prior, or uniformly if the model has none; drawn on the CPU."""
        if self.prior is None:
            return super().random_codes(n, generator=generator)
        return self.prior.sample(n, generator)

    def trial(self, target: Tensor) -> Tensor:
        """Encode and decode, and score the codes under the prior."""
        found = self.quantise(target)
        score = self.loss(self.reconstruct(found.vectors)[:, None], target).mean()
        return score + found.codebook + found.commitment + self.code_nats(found.codes).mean()

    @torch.no_grad()
    def start_codebooks(self, target: Tensor, draws: torch.Generator) -> None:
        """Find the first vectors of the codebooks by k-means, unless they have been found."""
        if self._books[0].started:
            return
        left = self.encoder(target).to(self.dtype)
        with _seeded(draws, self.device):
            for book in self._books:
                book.start(left)
                left = left - book(book.nearest(left))

    @torch.no_grad()
    def update_codebooks(self, encoded: Tensor, codes: Tensor, draws: torch.Generator) -> None:
        """Move the codebooks towards an update's `encoded` vectors (n, p, d) with their codes (n, stages)."""
        left = encoded
        with _seeded(draws, self.device):
            for book, chosen in zip(self._books, self._by_codebook(codes), strict=True):
                rest = left - book(chosen)
                book.update(left, chosen)
                left = rest

    def _by_codebook(self, codes: Tensor) -> Tensor:
        return rearrange(codes, "n (p q) -> q n p", p=self.positions)


@contextmanager
def _seeded(draws: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's own generator within the block, because the library takes none."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=draws)))
        yield


def _rotated(encoded: Tensor, total: Tensor) -> Tensor:
    """Return the sums of chosen vectors as the encoder's, rotated and scaled; the map has no gradient.

    Source: Fifty et al. 2024, arXiv 2410.06424.
    """
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    return rotate_to(encoded, total.detach())


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


def _vectors(
    width: int, coarse: tuple[int, ...], positions: int, code_width: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the maps (n, width, h, w) → (n, p, d) and back: 1×1 convolutions if p = h · w, otherwise dense layers."""
    height, length = coarse
    if positions == height * length:
        return (
            nn.Sequential(nn.Conv2d(width, code_width, 1), Rearrange("n d h w -> n (h w) d")),
            nn.Sequential(Rearrange("n (h w) d -> n d h w", h=height), nn.Conv2d(code_width, width, 1)),
        )
    flat = SQUEEZED * height * length
    return (
        nn.Sequential(
            nn.Conv2d(width, SQUEEZED, 1), nn.Flatten(),
            nn.Linear(flat, positions * code_width), nn.Unflatten(1, (positions, code_width)),
        ),
        nn.Sequential(
            nn.Flatten(), nn.Linear(positions * code_width, flat),
            nn.Unflatten(1, (SQUEEZED, *coarse)), nn.Conv2d(SQUEEZED, width, 1),
        ),
    )  # fmt: skip
