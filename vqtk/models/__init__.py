"""Models: VQ-DRAW, and what is compared with it."""
