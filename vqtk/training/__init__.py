"""The training loop, its batches, and how updates are computed and captured."""
