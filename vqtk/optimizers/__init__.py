"""Optimisers: how gradients change the weights."""

from vqtk.optimizers._base import Average, Averaging, copy_weights, evaluating, fastest

__all__ = ["Average", "Averaging", "copy_weights", "evaluating", "fastest"]
