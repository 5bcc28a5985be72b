"""Guides: losses that lead a decoding pass through the stages when no complete target is known."""

from vqtk.guides._base import Guide

__all__ = ["Guide"]
