"""Refiner blocks: features to features."""
