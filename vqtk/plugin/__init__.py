"""Plugins: how they are loaded, recorded in a run, started from a template."""
