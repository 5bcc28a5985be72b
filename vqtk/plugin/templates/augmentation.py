"""An augmentation: a random change of the training examples, drawn again for each update.

In a recipe: `plugins: [example.py]`, and `augment: [{name: example, most: 0.2}]` in `data`.
"""

import torch
from torch import Tensor

from vqtk.augmentations import Augmentation
from vqtk.nn.types import Fraction
from vqtk.registry import augmentations


@augmentations.register("example")
class Example(Augmentation):
    """Make each image lighter or darker, by a factor of at most 1 ± `most`.

    Shapes: examples (n, c, h, w), uint8 → the same.
    """

    # A recipe may set the parameters after the `*`.
    def __init__(self, *, most: Fraction = 0.2):
        self.most = most

    def __call__(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed examples as stored; draw on the CPU, by the generator, so that a resumed run draws alike."""
        factors = 1 + self.most * (2 * torch.rand(len(examples), generator=generator) - 1)
        changed = examples * factors.to(examples.device)[:, None, None, None]
        return changed.round().clamp(0, 255).to(examples.dtype)
