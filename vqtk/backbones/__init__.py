"""Backbones: from a reconstruction, as channels, to features."""

from vqtk.backbones._base import Rise, SkipBackbone

__all__ = ["Rise", "SkipBackbone"]
