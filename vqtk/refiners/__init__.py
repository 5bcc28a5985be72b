"""Refiners: the network of VQ-DRAW, which proposes changes to a reconstruction."""

from vqtk.refiners._base import Refiner, Scoring, Settled, settled

__all__ = ["Refiner", "Scoring", "Settled", "settled"]
