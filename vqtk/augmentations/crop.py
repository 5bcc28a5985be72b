"""Padded random crops."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vqtk.augmentations._base import Augmentation
from vqtk.nn.types import Side
from vqtk.registry import augmentations


@augmentations.register("crop")
class Crop(Augmentation):
    """Shift each image by up to `padding` pixels in both directions: a random crop of the padded image.

    `fill` is what comes in at the edges: the image itself, reflected; its edge, repeated; or black.

    Shapes: examples (n, c, h, w) → the same.
    """

    def __init__(self, *, padding: Side = 4, fill: Literal["reflect", "edge", "black"] = "reflect"):
        self.padding, self.fill = padding, fill

    def __call__(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Return the examples, each shifted by its own draw."""
        n, _, height, width = examples.shape
        shifts = torch.randint(-self.padding, self.padding + 1, (2, n), generator=generator).to(examples.device)
        rows, columns = (
            torch.arange(side, device=examples.device) + shift[:, None]
            for side, shift in zip((height, width), shifts, strict=True)
        )
        which = torch.arange(n, device=examples.device)[:, None, None, None]
        channels = torch.arange(examples.shape[1], device=examples.device)[:, None, None]
        taken = examples[which, channels, self._within(rows, height)[:, None, :, None],
                         self._within(columns, width)[:, None, None, :]]  # fmt: skip
        if self.fill != "black":
            return taken
        inside = [(places >= 0) & (places < side) for places, side in ((rows, height), (columns, width))]
        return taken * (inside[0][:, None, :, None] & inside[1][:, None, None, :])

    def _within(self, places: Tensor, side: int) -> Tensor:
        """Return places in the padded image as places in the image."""
        if self.fill != "reflect" or side == 1:
            return places.clamp(0, side - 1)
        period = 2 * (side - 1)
        return side - 1 - (places % period - (side - 1)).abs()
