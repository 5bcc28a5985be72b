"""Callbacks: what follows a run, among them the trackers, which record it in other tools."""

from vqtk.callbacks._base import Callback, Progress, Started
from vqtk.callbacks._tracker import Tracker

__all__ = ["Callback", "Progress", "Started", "Tracker"]
