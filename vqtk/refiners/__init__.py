"""Refiners: the one network there is, from reconstruction to proposed changes."""

from vqtk.refiners._base import Refiner

__all__ = ["Refiner"]
