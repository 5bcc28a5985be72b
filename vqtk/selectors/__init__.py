"""Selectors: which option training takes at each stage."""

from vqtk.selectors._base import Selector

__all__ = ["Selector"]
