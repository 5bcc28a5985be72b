"""The base class of guides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from vqtk.datasets import Splits
from vqtk.errors import ShapeError
from vqtk.models import Model

HIDDEN = (0.55, 0.62, 0.78)
"""The colour in which images show what a guide does not see."""


class Guide(ABC):
    """A loss of every option that leads a trained model through its stages when no complete target is known.

    It scores reconstructions as data, in training units, and sees only the part of the targets that `observed` returns.
    `kinds` are the kinds of data that it supports. A guide with `observes` false needs no targets at all. `hidden`
    (*data shape), bool, marks the values that are not seen; errors are measured there.

    Raises: ShapeError if the model's data are of another kind.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    observes: ClassVar[bool] = True
    hidden: Tensor

    def __init__(self, model: Model):
        self.data = model.data
        self.device = model.device
        self.hidden = torch.ones(model.data.shape, dtype=torch.bool, device=model.device)
        if model.data.kind not in self.kinds:
            raise ShapeError(
                f"{type(self).__name__} guides models of {' or '.join(self.kinds)} data, and this model's data are "
                f"{model.data.kind}. Use another model, or write a guide for {model.data.kind} as a plugin."
            )

    @abstractmethod
    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid, lower is better: proposals (n, k, *data shape), observed (n, …) → (n, k)."""

    def prepare(self, load: Callable[[], Splits], *, seed: int) -> None:  # noqa: B027
        """Learn what the guide needs from the model's data, which `load` reads; by default nothing."""

    def observed(self, targets: Tensor) -> Tensor:
        """Return the seen part of targets (n, *data shape) in training units → (n, …)."""
        return targets

    def seen(self, observed: Tensor) -> Tensor:
        """Return the seen part of images as images in [0, 1]: observed (n, …) → (n, 3, h, w)."""
        return self.data.pixels(observed).expand(-1, 3, -1, -1)
