"""Pictures of samples, stages and proposals."""
