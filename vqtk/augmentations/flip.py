"""Horizontal flips."""

from __future__ import annotations

import torch
from torch import Tensor

from vqtk.augmentations._base import Augmentation
from vqtk.nn.types import Fraction
from vqtk.registry import augmentations


@augmentations.register("flip")
class Flip(Augmentation):
    """Mirror each image, left to right, with probability `chance`.

    Shapes: examples (n, c, h, w) → the same.
    """

    def __init__(self, *, chance: Fraction = 0.5):
        self.chance = chance

    def __call__(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Return the examples, some of them mirrored."""
        drawn = torch.rand(len(examples), generator=generator) < self.chance
        return torch.where(drawn.to(examples.device)[:, None, None, None], examples.flip(3), examples)
