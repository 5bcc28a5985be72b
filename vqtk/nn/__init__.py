"""Stage-conditioned modules and the layer unit: what components are made of."""
