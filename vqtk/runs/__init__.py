"""A run: from a recipe to a directory that holds all of it; budgeted, resumed, rescued when it fails."""
