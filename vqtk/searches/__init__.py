"""Searches: the codes of a target, over all stages."""
