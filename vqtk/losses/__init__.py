"""Stage-selection losses, which own the parameterisation of the reconstruction."""
