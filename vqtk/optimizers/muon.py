"""Muon: momentum made orthogonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vqtk.nn.types import Betas, NonNegative, Positive, Share
from vqtk.optimizers._base import fastest
from vqtk.registry import optimizers

ITERATIONS = 5
"""Newton–Schulz iterations."""
_LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


@optimizers.register("muon", example={"weight_decay": 0.01})
class Muon(torch.optim.AdamW):
    """Muon for the weights of linear maps and convolutions, and AdamW for all other parameters.

    A step along the momentum of a matrix is replaced by the nearest orthogonal matrix, by Newton–Schulz iterations in
    bfloat16. A filter bank (out, in, *kernel) is taken as a matrix of out rows. Filters of one input channel, and
    matrices with a side below 4 or one more than 128 times the other, go to AdamW, like biases, norms, conditions on
    the stage and codebooks. The steps are scaled to the size of Adam's, so that its learning rates serve.

    - `momentum` is the decay of the average of gradients, with Nesterov's look ahead.
    - `betas` and `eps` are AdamW's, and `weight_decay` shrinks every parameter by lr · `weight_decay` an update.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the scale, Liu et al. 2025, arXiv 2502.16982;
    the iterations and the choice of parameters, timm.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: Positive = 1e-3,
        momentum: Share = 0.95,
        betas: Betas = [0.9, 0.99],
        eps: Positive = 1e-5,
        weight_decay: NonNegative = 0.0,
    ):
        matrices = matrices_of(model)
        chosen = set(matrices)
        first, second = betas
        super().__init__(
            [{"params": [one for one in model.parameters() if one not in chosen]}, {"params": matrices}],
            lr=lr,
            betas=(first, second),
            eps=eps,
            weight_decay=weight_decay,
            **fastest(model),
        )
        self.param_groups[1]["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step: AdamW's for the first group of parameters, Muon's for the second."""
        groups = self.param_groups
        try:
            self.param_groups = groups[:1]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        lr, momentum, decay = (groups[1][name] for name in ("lr", "momentum", "weight_decay"))
        weights = [weight for weight in groups[1]["params"] if weight.grad is not None]
        if not weights:
            return loss
        gradients = [weight.grad for weight in weights]
        averages = [self._average(weight) for weight in weights]
        # Each of these takes one kernel for all matrices: on CUDA, kernels take most of the time of a small model.
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        of_shape: dict[torch.Size, list[int]] = {}
        for index, one in enumerate(ahead):
            of_shape.setdefault(one.flatten(1).shape, []).append(index)
        steps: dict[int, Tensor] = {}
        for alike in of_shape.values():  # Segments have matrices of the same shapes, which are iterated together.
            made = orthogonal(torch.stack([ahead[index].flatten(1) for index in alike])) * lr
            for index, step in zip(alike, made.unbind(), strict=True):
                steps[index] = step.view_as(weights[index])
        torch._foreach_mul_(weights, 1 - lr * decay)
        torch._foreach_sub_(weights, [steps[index] for index in range(len(weights))])
        return loss

    def _average(self, weight: Tensor) -> Tensor:
        """Return the average of a matrix's gradients."""
        state = self.state[weight]
        if not state:  # Torch's AdamW loads no state without a `step`.
            state.update(step=torch.zeros((), device=weight.device), momentum_buffer=torch.zeros_like(weight))
        return state["momentum_buffer"]


def orthogonal(matrices: Tensor) -> Tensor:
    """Return approximately the nearest orthogonal matrices (…, n, m), times 0.2 √max(n, m): their RMS is Adam's."""
    from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz  # It imports torchvision: seconds.

    coefficients = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
                    (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)]  # fmt: skip
    # A CPU without bfloat16 products emulates them, at a tenth of the speed.
    dtype = torch.float32 if matrices.device.type == "cpu" else torch.bfloat16
    made = zeropower_via_newtonschulz(matrices, ITERATIONS, coefficients, dtype=dtype)
    return made.to(matrices.dtype).contiguous() * get_lr_scale(matrices.shape[-2:])


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon trains, in the order of the model."""
    found = dict.fromkeys(
        cast(nn.Parameter, module.weight) for module in model.modules() if isinstance(module, _LINEAR)
    )
    return [weight for weight in found if _is_matrix(weight.shape)]


def _is_matrix(shape: torch.Size) -> bool:
    rows, columns = shape[0], shape[1:].numel()
    return shape[1] > 1 and min(rows, columns) >= 4 and max(rows, columns) <= 128 * min(rows, columns)
