"""Heads: features to the deltas of every option, or of the chosen one."""
