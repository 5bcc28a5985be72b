"""An optimiser: how gradients change the weights.

In a recipe: `plugins: [example.py]`, and `optimizer: {name: example, lr: 1e-3}` in `train`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vqtk.nn.types import Positive, Share
from vqtk.registry import optimizers


@optimizers.register("example")
class Example(torch.optim.Optimizer):
    """Steps of size `lr` along the sign of the momentum, whose decay is `momentum`.

    Source: Bernstein et al. 2018, arXiv 1802.04434 (Signum).
    """

    # The toolkit supplies the parameters before the `*`; a recipe may set those after it.
    def __init__(self, model: nn.Module, *, lr: Positive = 1e-4, momentum: Share = 0.9):
        # `capturable`: the step keeps no numbers in Python, so a CUDA graph may contain it.
        super().__init__(model.parameters(), {"lr": lr, "momentum": momentum, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; training sets `lr` before each, by the schedule: a tensor on CUDA, otherwise a number."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]  # Saved with every checkpoint.
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                weight.sub_(state["momentum"].sign() * group["lr"])
