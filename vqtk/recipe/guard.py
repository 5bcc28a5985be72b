"""The guard against variants that change nothing: a model's fingerprint beside that of the recipe it varies."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.recipe.build import build_model
from vqtk.recipe.node import Node, shown_path, walk
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.recipe.validate import synthetic

_DRAWN = 4096


def unchanged(recipe: Recipe) -> list[str]:
    """Return a warning for each recipe that this one means to vary, where the model is the same all the same.

    Raises: RecipeError if the other recipe is wrong.
    """
    bases = ((path, load_recipe(path)) for path in recipe.varies)
    return [told for path, base in bases if (told := _told(recipe, path, base))]


def fingerprint(recipe: Recipe) -> str:
    """Return a hash of a recipe's model: its module tree and parameter shapes, and what it does when drawn from a seed.

    What it does is its codes, the outcome and gradients of a pass through the stages that differ, and the draws of its
    selector. Two models of one fingerprint are one model, as far as training goes.
    """
    model = build_model(replace(recipe, seed=0))
    digest = hashlib.sha256(f"{model.stages} stages of {model.options} options\n".encode())
    for name, module in model.named_modules():
        digest.update(f"{name} {type(module).__qualname__}\n".encode())
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
    for part in ("selector", "search"):
        settings = vars(getattr(model, part, model)) if hasattr(model, part) else {}
        digest.update(f"{type(getattr(model, part, None)).__qualname__} {sorted(settings.items())}\n".encode())
    for value in _outcome(model):
        digest.update(np.ascontiguousarray(value.detach().numpy()).data)
    return digest.hexdigest()


def _outcome(model: Model) -> list[Tensor]:
    outcome = model.train().trial(synthetic(model.data, 1))
    outcome.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    drawn = None
    if isinstance(model, VQDraw):
        drawn = model.draw(_DRAWN, torch.Generator().manual_seed(0), progress=0.0)
    return [outcome.reshape(1), *gradients, *([] if drawn is None else [drawn])]


def _told(recipe: Recipe, path: Path, base: Recipe) -> str | None:
    changed = _changed(recipe.plain(), base.plain())
    if not changed:
        return f"this recipe says the same as {shown_path(path)}, but for its name: the variant changes nothing."
    in_model = [place for place in changed if place.startswith("model")]
    if not in_model or fingerprint(recipe) != fingerprint(base):
        return None
    return (
        f"{', '.join(in_model[:3])}{' …' if len(in_model) > 3 else ''} differs from {shown_path(path)}, but the model "
        "is the same one: the same modules and parameters, and from one seed the same outcome and gradients. "
        "As far as the model goes, the variant changes nothing; is the setting used?"
    )


def _changed(plain: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return the dotted paths of the values that differ, the name aside."""
    sides = [
        {place: node.value for place, node in walk(Node.of(side, "")) if not isinstance(node.value, (dict, list))}
        for side in (plain, base)
    ]
    places = [place for place in dict.fromkeys([*sides[0], *sides[1]]) if place != "name"]
    absent = object()
    return [place for place in places if sides[0].get(place, absent) != sides[1].get(place, absent)]
