"""Recipes: YAML files, merged, checked and built."""
