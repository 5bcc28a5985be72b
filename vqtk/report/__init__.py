"""What a model looks like, as pictures, text and meshes; and the report of a run."""
