"""Draw examples (images, signals, points, voxels, text) and the tree of codes."""
