"""Refiners: the one network there is, from reconstruction to proposed changes."""
