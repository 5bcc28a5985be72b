"""Sampling: guided by what is known of an example, and from priors over codes."""
