"""Files: weights that carry their recipe, and the original implementation's checkpoints."""
