"""Callbacks: what follows a run, among them its display, and trackers, which record it in other tools."""

from vqtk.callbacks._base import BESIDES, Callback, Progress, Row, Started
from vqtk.callbacks._display import PlainDisplay, Shown, duration, make_display
from vqtk.callbacks._tracker import Tracker

__all__ = [
    "BESIDES",
    "Callback",
    "PlainDisplay",
    "Progress",
    "Row",
    "Shown",
    "Started",
    "Tracker",
    "duration",
    "make_display",
]
