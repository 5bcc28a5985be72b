"""Schedules: how the learning rate changes over the updates."""

from vqtk.schedules._base import Schedule

__all__ = ["Schedule"]
