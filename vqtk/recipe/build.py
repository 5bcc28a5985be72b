"""The one place that joins names to objects: from a recipe to its data set and its model."""

from __future__ import annotations

from pathlib import Path

import torch

from vqtk.datasets import Dataset
from vqtk.models import Model
from vqtk.recipe.affordable import affordable
from vqtk.recipe.recipe import Recipe, load_recipe


def build_dataset(recipe: Recipe) -> Dataset:
    """Return the recipe's data set; nothing is read yet."""
    return recipe.data()


def build_model(recipe: Recipe, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Model:
    """Return the recipe's model, its weights drawn from the recipe's seed on the CPU.

    On the device `meta` nothing is drawn or held.
    Raises: RecipeError if parts do not fit, or before more memory is taken than there is.
    """
    spec = build_dataset(recipe).spec
    with torch.random.fork_rng(devices=[]), torch.device("meta" if str(device) == "meta" else "cpu"), affordable():
        torch.default_generator.manual_seed(recipe.seed)
        model = recipe.model(spec)
    return model.to(device=device, dtype=dtype) if str(device) != "meta" else model


def build(recipe: str | Path, *overrides: str, device: str = "cpu") -> Model:
    """Return the model of a recipe file, untrained: `vqtk.build("recipes/mnist.yaml", "model.stages=5")`.

    Raises: RecipeError for all that is wrong with the recipe, at once.
    """
    return build_model(load_recipe(recipe, overrides), device=device)
