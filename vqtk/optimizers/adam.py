"""The paper's optimiser."""

import torch
from torch import nn

from vqtk.nn.types import Betas, NonNegative, Positive
from vqtk.optimizers._base import fastest
from vqtk.registry import optimizers


@optimizers.register("adam")
class Adam(torch.optim.Adam):
    """Adam.

    - `lr` is the learning rate that the schedule starts from.
    - `betas` are the decays of the averages of gradients and of their squares.
    - `eps` is added to the root of the latter.
    - `weight_decay` is the coefficient of an L2 penalty, whose gradient passes through the averages.

    Source: Kingma and Ba 2014, arXiv 1412.6980; the defaults are those of the original implementation of VQ-DRAW.
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
