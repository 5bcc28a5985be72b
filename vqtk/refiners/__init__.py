"""Refiners: the network of VQ-DRAW, which proposes changes to a reconstruction."""

from vqtk.refiners._base import Refiner

__all__ = ["Refiner"]
