"""Conditions: how features depend on the stage."""
