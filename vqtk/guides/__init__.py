"""Guides: what a walk through the stages is led by, in place of a whole target."""
