"""Adam with decoupled weight decay."""

import torch
from torch import nn

from vqtk.nn.types import Betas, NonNegative, Positive
from vqtk.optimizers._base import fastest
from vqtk.registry import optimizers


@optimizers.register("adamw")
class AdamW(torch.optim.AdamW):
    """Adam whose weight decay does not pass through the averages: weights shrink by lr · `weight_decay` an update.

    The other settings are those of `adam`.

    Source: Loshchilov and Hutter 2017, arXiv 1711.05101.
    """

    elementwise = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Positive = 1e-3,
        betas: Betas = [0.9, 0.99],
        eps: Positive = 1e-5,
        weight_decay: NonNegative = 0.0,
    ):
        first, second = betas
        super().__init__(
            model.parameters(), lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay, **fastest(model)
        )
