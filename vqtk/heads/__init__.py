"""Heads: from features to the deltas of every option, or of chosen ones."""

from vqtk.heads._base import Factors, Head

__all__ = ["Factors", "Head"]
