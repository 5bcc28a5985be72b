"""What `tests/soak.py` is made of: runs of every kind, processes that are killed, and comparisons."""
