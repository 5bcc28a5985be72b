"""Augmentations: random changes of the training examples, drawn again for each update."""

from vqtk.augmentations._base import Augmentation

__all__ = ["Augmentation"]
