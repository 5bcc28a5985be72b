"""Ablation studies, and their comparison."""
