"""Selectors: which option training takes at each stage."""
