"""Objectives: what training minimises."""

from vqtk.objectives._base import Load, Objective, Pass

__all__ = ["Load", "Objective", "Pass"]
