"""Guided sampling, and priors over codes."""
