"""Examples drawn: images, points, voxels, text, and the tree of options."""
