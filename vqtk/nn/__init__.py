"""The parts of components: stage-conditioned modules, convolutions and the layer unit."""
