"""Refiners: the network of VQ-DRAW, which proposes changes to a reconstruction."""

from vqtk.refiners._base import Choice, Judge, Refiner, choose_in_two_passes

__all__ = ["Choice", "Judge", "Refiner", "choose_in_two_passes"]
