"""Stage-selection losses, which own the parameterisation of the reconstruction."""

from vqtk.losses._base import Loss

__all__ = ["Loss"]
