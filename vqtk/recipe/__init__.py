"""Recipes: YAML, resolved and checked, to built objects."""
