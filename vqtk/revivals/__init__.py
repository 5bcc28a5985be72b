"""Revivals: what training does for options that it does not choose."""

from vqtk.revivals._base import Revival

__all__ = ["Revival"]
