"""Measurements of a trained model: rate and distortion, code usage, probes, sample quality, references and cost."""
