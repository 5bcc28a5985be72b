"""Product and residual quantisers whose codebooks are fitted by faiss."""

from __future__ import annotations

from importlib.util import find_spec
from math import log2, prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vqtk.errors import ShapeError, VqtkError
from vqtk.models._base import Model
from vqtk.nn.types import Count, DataSpec, Options, Stages
from vqtk.registry import LossFactory, models

AT_ONCE = 1 << 26
"""Values that encoding holds at most."""


@models.register(
    "faiss",
    example={"stages": 2, "options": 2, "loss": "mse", "kind": "rq"},
    data={"name": "toy2d"},
    dimensions=(0,),
)
class Faiss(Model):
    """A quantiser of vectors with a codebook for each stage, fitted by faiss: the baseline for vectors.

    `pq` splits a vector into as many parts as there are stages, each with its own codebook; `opq` rotates it before;
    `rq` is a residual quantiser, which keeps the `beam` best codes at each stage, both when it is fitted and when it
    encodes. Data other than vectors are flattened. The objective `fitting` fits it to the first batch; encoding and
    decoding are vqtk's and do not need faiss. Prefixes of a code are not decoded.

    Shapes: data (n, *shape) in training units ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if `options` is no power of 2, `pq` or `opq` cannot split the values into equal parts, or the
    data are not real numbers.
    Source: Jégou et al. 2011, product quantisation; Ge et al. 2013, OPQ; Babenko and Lempitsky 2014 and Chen et al.
    2010, residual quantisation. The implementation is that of Douze et al. 2024, The Faiss library, arXiv 2401.08281.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: LossFactory,
        kind: Literal["pq", "opq", "rq"] = "rq",
        beam: Count = 5,
    ):
        super().__init__(data, stages=stages, options=options)
        self.loss, self.kind, self.beam = loss(data), kind, beam
        values = prod(data.shape)
        if data.classes is not None or self.loss.shape != data.shape:
            raise ShapeError(
                f"faiss quantises real numbers, and the data are {data.kind} with a reconstruction of shape "
                f"{self.loss.shape} for examples of {data.shape}. Use images, points or signals, and `loss: mse`."
            )
        if options & (options - 1):
            above = 1 << options.bit_length()
            raise ShapeError(f"`options` is {options}, and faiss needs a power of 2. Use {above // 2} or {above}.")
        if kind != "rq" and values % stages:
            raise ShapeError(
                f"`{kind}` splits an example into {stages} parts, and it has {values} values. Let `stages` divide them."
            )
        self.codebooks = nn.Parameter(0.1 * torch.randn(stages, options, values if kind == "rq" else values // stages))
        self.rotation: Tensor | None
        self.fitted: Tensor
        self.register_buffer("rotation", torch.eye(values) if kind == "opq" else None)
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, examples: Tensor) -> None:
        """Fit the codebooks to examples (n, *data shape) on the CPU. Raises: VqtkError if they are too few."""
        from faiss import OPQMatrix, ProductQuantizer, ResidualQuantizer, omp_set_num_threads, vector_to_array

        vectors = np.ascontiguousarray(examples.flatten(1).float().cpu().numpy())
        if len(vectors) < self.options:
            raise VqtkError(
                f"faiss needs at least as many examples as options, {self.options:,}, to fit its codebooks, and the "
                f"first batch has {len(vectors):,}. Raise data.batch, up to the size of the training set."
            )
        omp_set_num_threads(torch.get_num_threads())
        values, bits = vectors.shape[1], int(log2(self.options))
        # faiss starts from a fixed seed; what differs between runs is the order of the examples.
        quantiser: Any = (ResidualQuantizer if self.kind == "rq" else ProductQuantizer)(values, self.stages, bits)
        quantiser.cp.min_points_per_centroid = 1  # Else it warns below 39, on the standard output.
        if self.kind == "rq":
            quantiser.max_beam_size = self.beam
            if len(vectors) < values:  # Its clustering begins in principal components, of which there are fewer.
                quantiser.train_type = ResidualQuantizer.Train_default
        if self.rotation is not None:
            matrix = OPQMatrix(values, self.stages)
            matrix.pq = ProductQuantizer(values, self.stages, bits)
            matrix.pq.cp.min_points_per_centroid = 1
            matrix.train(vectors)
            vectors = matrix.apply(vectors)
            self.rotation.copy_(torch.from_numpy(vector_to_array(matrix.A).reshape(values, values)))
        quantiser.train(vectors)
        stored = quantiser.codebooks if self.kind == "rq" else quantiser.centroids
        self.codebooks.copy_(torch.from_numpy(vector_to_array(stored)).view_as(self.codebooks))
        self.fitted.fill_(True)

    @torch.no_grad()
    def encode(self, target: Tensor) -> Tensor:
        """Return the codes of a target (n, *data shape) → (n, stages)."""
        self._check_target(target)
        encoded = self._residual_codes if self.kind == "rq" else self._product_codes
        size = max(1, AT_ONCE // (self.beam * max(self.options, prod(self.data.shape))))
        return torch.cat([encoded(part) for part in target.flatten(1).split(size)])

    def _product_codes(self, vectors: Tensor) -> Tensor:
        rotated = vectors if self.rotation is None else vectors @ self.rotation.mT
        parts = rotated.unflatten(1, (self.stages, -1))
        crossed = torch.einsum("nsd,skd->nsk", parts, self.codebooks)
        return (self.codebooks.square().sum(2) - 2 * crossed).argmin(2)

    def _residual_codes(self, vectors: Tensor) -> Tensor:
        """Return the best codes that a beam search finds."""
        left, codes = vectors[:, None], vectors.new_empty(len(vectors), 1, 0, dtype=torch.int64)
        for book in self.codebooks:
            errors = left.square().sum(2, keepdim=True) + book.square().sum(1) - 2 * left @ book.mT  # (n, beam, k)
            flat = errors.flatten(1)
            best = flat.topk(min(self.beam, flat.shape[1]), largest=False).indices
            beam, option = (best // self.options)[..., None], (best % self.options)[..., None]
            left = left.take_along_dim(beam, 1) - book[option[..., 0]]
            codes = torch.cat([codes.take_along_dim(beam, 1), option], 2)
        return codes[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of whole codes (n, stages) → (n, *shape). Raises: ShapeError for a prefix."""
        self._check_codes(codes, most=self.stages)
        if codes.shape[1] != self.stages:
            raise ShapeError(
                f"codes of {codes.shape[1]} stages: faiss decodes only whole codes of {self.stages} stages."
            )
        chosen = self.codebooks[torch.arange(self.stages, device=codes.device), codes]  # (n, stages, values of each)
        found = chosen.sum(1) if self.kind == "rq" else chosen.flatten(1)
        if self.rotation is not None:
            found = found @ self.rotation
        return found.unflatten(1, self.data.shape)

    def trial(self, target: Tensor) -> Tensor:
        """Encode and decode."""
        return self.loss(self.decode(self.encode(target))[:, None], target).mean()


def require_faiss() -> None:
    """Raise VqtkError if faiss is not installed."""
    if find_spec("faiss") is None:
        raise VqtkError(
            "the objective `fitting` needs faiss, which is not installed. Run: pip install 'vqtk[vectors]'."
        )
