"""Backbones: network input to features."""
