"""Gradient descent with momentum."""

import torch
from torch import nn

from vqtk.errors import VqtkError
from vqtk.nn.types import NonNegative, Positive, Share
from vqtk.optimizers._base import fastest
from vqtk.registry import optimizers


@optimizers.register("sgd", example={"weight_decay": 0.01})
class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum.

    `momentum` is the decay of the sum of gradients; `nesterov` looks ahead along it. `weight_decay` is the coefficient
    of an L2 penalty.

    Raises: VqtkError for `nesterov` without momentum.
    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    elementwise = True

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Positive = 1e-2,
        momentum: Share = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegative = 0.0,
    ):
        if nesterov and not momentum:
            raise VqtkError("`nesterov` looks ahead along the momentum, which is 0. Set `momentum`, such as 0.9.")
        form = fastest(model)
        super().__init__(
            model.parameters(),
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            fused=form["fused"],
        )
        for group in self.param_groups:  # Torch does not ask SGD for it: the fused step keeps nothing on the host.
            group["capturable"] = form["capturable"]
