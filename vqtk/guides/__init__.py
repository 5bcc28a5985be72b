"""Guides: what a walk through the stages is led by, in place of a whole target."""

from vqtk.guides._base import Guide

__all__ = ["Guide"]
