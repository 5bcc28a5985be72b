"""Blocks of a refiner: from features to features."""
