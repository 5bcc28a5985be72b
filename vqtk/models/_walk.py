"""The result of an encoding pass, and the loss terms that training takes from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqtk.nn.stage import State


@dataclass(frozen=True)
class Walk:
    """The result of an encoding pass through the stages.

    `choice`, `final` and `all` are means over the batch in units of the loss. They use the best option of each stage,
    whichever option an exploring selector took; if the pass was `led` along given codes, those of the path.

    Arguments:
        grid: (n, s, k), the loss of every option.
        codes: (n, s), the path taken.
        reconstruction: (n, *shape) after the last stage.
        state: of the refiner, after the last stage.
        led: whether the losses are those of the path: a search gave it, or only its options have a gradient.
        sampled: (n, s, m), the losses of options drawn for the gradient; if there are any, only they and each stage's
            best option, or the path's, have a gradient.
    """

    grid: Tensor
    codes: Tensor
    reconstruction: Tensor
    state: State = None
    sampled: Tensor | None = None
    led: bool = False

    @property
    def choice(self) -> Tensor:
        """The smallest loss of each stage, or that of the path, averaged over the stages."""
        return self._losses(self.grid, self.codes).mean()

    @property
    def final(self) -> Tensor:
        """The smallest loss of the last stage, or that of the path."""
        return self._losses(self.grid[:, -1:], self.codes[:, -1:]).mean()

    def _losses(self, grid: Tensor, codes: Tensor) -> Tensor:
        return grid.gather(2, codes[..., None])[..., 0] if self.led else grid.min(2).values

    @property
    def all(self) -> Tensor:
        """The loss of every option, averaged over options and stages."""
        return self.grid.mean()

    @property
    def best(self) -> Tensor:
        """The best option of each stage (n, s), or that of the path: those whose usage is counted."""
        return self.codes if self.led else self.grid.detach().argmin(2)


def usage_of(codes: Tensor, options: int) -> Tensor:
    """Return how often each option was chosen at each stage: codes (n, s) → (s, k), int64.

    Unlike `bincount`, which reads the largest value, this does not wait for the device.
    """
    counts = torch.zeros(codes.shape[1], options, dtype=torch.int64, device=codes.device)
    return counts.scatter_add_(1, codes.mT, torch.ones_like(codes.mT))
