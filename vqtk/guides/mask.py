"""Inpainting: a part of each image is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import doc
from PIL import Image
from torch import Tensor

from vqtk.datasets._paths import check_regular, expanded
from vqtk.errors import VqtkError, nearest
from vqtk.guides._base import HIDDEN, Guide
from vqtk.models import Model
from vqtk.nn.types import Fraction, Whole
from vqtk.process import generator
from vqtk.registry import guides

SIDES = ("right", "left", "top", "bottom", "centre", "random")
Hide = Annotated[str, doc(f"{', '.join(SIDES)}, or the path of an image whose white pixels are hidden")]


@guides.register("mask", example={"hide": "centre", "fraction": 0.25})
class Mask(Guide):
    """The mean squared error over the pixels that are seen; the others are hidden.

    `hide` is a side, the centre or random pixels, with `fraction` of the pixels hidden there; or the path of an image
    of the same size that is white where pixels are hidden. `seed` draws random pixels, which are the same for all
    images.

    Shapes: proposals (n, k, c, h, w), observed (n, c, h, w) with zeros where it is hidden → (n, k), in training units
    squared.
    Raises: VqtkError if `hide` is neither such a word nor such an image, or every pixel is hidden.
    """

    def __init__(self, model: Model, *, hide: Hide = "right", fraction: Fraction = 0.5, seed: Whole = 0):
        super().__init__(model)
        _, height, width = self.data.shape
        size = (height, width)
        self._hide(_region(size, hide, fraction, seed) if hide in SIDES else _image(size, expanded(Path(hide))))

    @classmethod
    def of(cls, model: Model, hidden: Tensor) -> Mask:
        """Return the guide that hides any pixels (h, w), bool. Raises: VqtkError if every pixel is hidden."""
        guide = cls(model, fraction=0)
        guide._hide(hidden)
        return guide

    def _hide(self, hidden: Tensor) -> None:
        if hidden.all():
            raise VqtkError("every pixel is hidden, so nothing is left to guide the model. Hide a smaller part.")
        self.hidden = hidden.expand(self.data.shape[0], -1, -1).to(self.device)

    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid."""
        shown = ~self.hidden
        return (proposals[..., shown] - observed[:, None, shown]).square().mean(2)

    def observed(self, targets: Tensor) -> Tensor:
        """Return the targets, zero where they are hidden."""
        return targets.masked_fill(self.hidden, 0)

    def seen(self, observed: Tensor) -> Tensor:
        """Return the targets, with hidden pixels in the colour `HIDDEN`."""
        colour = torch.tensor(HIDDEN, device=observed.device)[:, None, None]
        return torch.where(self.hidden[:1], colour, self.data.pixels(observed))


def _region(size: tuple[int, int], hide: str, fraction: float, seed: int) -> Tensor:
    """Return which pixels (h, w) are hidden: rows or columns at a side, a box in the centre, or random pixels."""
    height, width = size
    hidden = torch.zeros(size, dtype=torch.bool)
    rows, columns = round(height * fraction), round(width * fraction)
    if hide in ("left", "right"):
        hidden[:, slice(columns) if hide == "left" else slice(width - columns, width)] = True
    elif hide in ("top", "bottom"):
        hidden[slice(rows) if hide == "top" else slice(height - rows, height)] = True
    elif hide == "centre":
        box = [round(side * fraction**0.5) for side in size]
        top, left = ((side - inner) // 2 for side, inner in zip(size, box, strict=True))
        hidden[top : top + box[0], left : left + box[1]] = True
    else:
        drawn = torch.randperm(height * width, generator=generator(seed, "mask"))
        hidden.view(-1)[drawn[: round(height * width * fraction)]] = True
    return hidden


def _image(size: tuple[int, int], path: Path) -> Tensor:
    """Return which pixels (h, w) of an image are white. Raises: VqtkError if it cannot be read, or its size differs."""
    expected = (
        f"Expected {', '.join(SIDES)}, or the path of an image of {size[1]}×{size[0]} pixels, white where pixels are "
        "hidden."
    )
    check_regular(path)
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L"))
    except FileNotFoundError:
        advice = nearest(str(path), list(SIDES))
        raise VqtkError(f"hide is {str(path)!r}, and there is no such file. {advice}{expected}") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise VqtkError(f"{path}: cannot be read as an image ({error}). {expected}") from None
    if values.shape != size:
        raise VqtkError(f"{path}: an image of {values.shape[1]}×{values.shape[0]} pixels. {expected}")
    return torch.from_numpy(values >= 128)
