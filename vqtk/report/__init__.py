"""Plots, in one style, and the page of a run."""
