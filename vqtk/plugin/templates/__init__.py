"""Templates of plugins: working components that `vqtk plugin new` copies. They are not registered."""
