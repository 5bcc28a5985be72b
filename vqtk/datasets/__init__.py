"""Data sets: train and test splits with shape, range and normalisation."""
