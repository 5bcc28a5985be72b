"""Refiners: the network of VQ-DRAW, which proposes changes to a reconstruction."""

from vqtk.refiners._base import Judge, Refiner, Settled, settled

__all__ = ["Judge", "Refiner", "Settled", "settled"]
