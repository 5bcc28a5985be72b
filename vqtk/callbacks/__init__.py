"""Callbacks: what follows a run, among them its display, and trackers, which record it in other tools."""

from vqtk.callbacks._base import Callback, Progress, Started
from vqtk.callbacks._display import PlainDisplay, Shown, duration, make_display
from vqtk.callbacks._tracker import Tracker

__all__ = [
    "Callback",
    "PlainDisplay",
    "Progress",
    "Shown",
    "Started",
    "Tracker",
    "duration",
    "make_display",
]
