"""Plugins: loading them, recording them with a run, and starting one from a template."""
