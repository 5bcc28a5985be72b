"""A feed-forward encoder and decoder that imitate a trained VQ-DRAW."""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.models._base import Model
from vqtk.models._code_models import Autoregressive, Independent
from vqtk.nn.types import Count, DataSpec, Options, Stages
from vqtk.registry import LossFactory, models


@models.register("distilled", example={"stages": 4, "options": 4, "loss": "mse", "width": 8})
class Distilled(Model):
    """Feed-forward networks instead of stages: one predicts the codes, the other decodes whole codes.

    `codes` is how the codes of the stages are predicted: one after another by a GRU, or all at once. The model is
    trained by the objective `distillation`. Prefixes of a code cannot be decoded.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the data are not such images.
    Source: Nichol 2020, the distilled MNIST model of the original implementation.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: LossFactory,
        width: Count = 128,
        codes: Literal["autoregressive", "independent"] = "autoregressive",
    ):
        super().__init__(data, stages=stages, options=options)
        if data.kind != "image" or any(side % 4 for side in data.shape[1:]):
            raise ShapeError(
                f"distilled needs images whose sides are multiples of 4, and the data are {data.kind} of shape "
                f"{data.shape}. Change data.size, or use another model."
            )
        channels, *size = data.shape
        coarse = (64, *(side // 4 for side in size))
        flat = coarse[0] * coarse[1] * coarse[2]
        self.loss = loss(data)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(64, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 64, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(flat, width), nn.ReLU(),
        )  # fmt: skip
        self.codes = {"autoregressive": Autoregressive, "independent": Independent}[codes](width, stages, options)
        self.decoder = nn.Sequential(
            nn.Linear(stages * options, width), nn.ReLU(),
            nn.Linear(width, flat), nn.ReLU(), nn.Unflatten(1, coarse),
            nn.Conv2d(64, width, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, 64, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, self.loss.out_channels, 3, padding=1),
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, target: Tensor) -> Tensor:
        """Return the codes of a target (n, c, h, w) → (n, stages)."""
        self._check_target(target)
        return self.codes.best(self.encoder(target))

    def code_nats(self, target: Tensor, codes: Tensor) -> Tensor:
        """Return the negative log-likelihood of codes (n, s) given a target (n, c, h, w), in nats: (n, s)."""
        self._check_target(target)
        return self.codes.nats(self.encoder(target), codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of whole codes (n, stages) → (n, *shape).

        Raises: VqtkError if codes are missing, or a code is not an option.
        """
        self._check_codes(codes, most=self.stages)
        if codes.shape[1] < self.stages:
            raise ShapeError(
                f"codes of {codes.shape[1]} stages: distilled decodes only whole codes of {self.stages} stages."
            )
        one_hot = F.one_hot(codes, self.options).to(self.dtype) * (self.stages * self.options) ** 0.5
        return self.loss.from_channels(self.decoder(rearrange(one_hot, "n s k -> n (s k)")))

    def trial(self, target: Tensor) -> Tensor:
        """Encode and decode."""
        codes = self.encode(target)
        return self.code_nats(target, codes).mean() + self.loss(self.decode(codes)[:, None], target).mean()
