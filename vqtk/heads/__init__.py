"""Heads: features to the deltas of every option, or of the chosen one."""

from vqtk.heads._base import Head

__all__ = ["Head"]
