"""Small rotations, scalings, shears and shifts."""

from __future__ import annotations

from math import pi
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtk.augmentations._base import Augmentation
from vqtk.nn.types import Degrees, Fraction, NonNegative, Share, Slant
from vqtk.registry import augmentations


@augmentations.register("affine")
class Affine(Augmentation):
    """Rotate, scale, shear and shift each image about its centre, with probability `chance`.

    All four are drawn uniformly: an angle of up to `rotate` degrees either way, two factors from 1 − `scale` to
    1 + `scale`, by which height and width are divided, a shear of up to `shear` degrees either way, and a shift of up
    to `shift` pixels along each dimension. Pixels are interpolated bicubically. `fill` is what comes in at the edges:
    the image itself, reflected; its edge, repeated; or black.

    Shapes: examples (n, c, h, w) → the same.
    """

    def __init__(
        self,
        *,
        rotate: Degrees = 10.0,
        scale: Share = 0.1,
        shear: Slant = 10.0,
        shift: NonNegative = 0.5,
        chance: Fraction = 1.0,
        fill: Literal["reflect", "edge", "black"] = "black",
    ):
        self.rotate, self.scale, self.shear, self.shift = rotate, scale, shear, shift
        self.chance, self.padding = chance, {"reflect": "reflection", "edge": "border", "black": "zeros"}[fill]

    def __call__(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Return the examples, some of them transformed, each by its own draws."""
        drawn = torch.rand(len(examples), generator=generator) < self.chance
        maps = self._maps(2 * torch.rand(6, len(examples), generator=generator) - 1, *examples.shape[2:])
        if not drawn.any():
            return examples
        where = F.affine_grid(maps.to(examples.device), list(examples.shape), align_corners=False)
        changed = F.grid_sample(examples.float(), where, mode="bicubic", padding_mode=self.padding, align_corners=False)
        if not examples.is_floating_point():
            changed = changed.round().clamp(0, 255)
        return torch.where(drawn.to(examples.device)[:, None, None, None], changed.to(examples.dtype), examples)

    def _maps(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Return the maps from places in the new images to places in the old ones, for draws (6, n) in −1 … 1."""
        angle, shear = draws[0] * self.rotate * pi / 180, torch.tan(draws[1] * self.shear * pi / 180)
        tall, wide = 1 + draws[2] * self.scale, 1 + draws[3] * self.scale
        cosine, sine = angle.cos(), angle.sin()
        # Coordinates run from −1 to 1 along both sides, and angles are those of the pixels.
        aspect = height / width
        x = [cosine * wide, (cosine * shear - sine) * tall * aspect, draws[4] * 2 * self.shift / width]
        y = [sine * wide / aspect, (sine * shear + cosine) * tall, draws[5] * 2 * self.shift / height]
        return torch.stack([torch.stack(x), torch.stack(y)]).permute(2, 0, 1)
