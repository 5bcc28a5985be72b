"""A recipe tried out: its model built, and a forward and backward pass where stages differ."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vqtk.errors import RecipeError, VqtkError
from vqtk.nn.types import DataSpec
from vqtk.plugin import told
from vqtk.recipe.affordable import check_update
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe


@dataclass(frozen=True)
class Validation:
    """What trying a recipe out showed."""

    parameters: int
    bits: float
    seconds: float


def validate(recipe: Recipe) -> Validation:
    """Build the model and try it out, forwards and backwards, on one item.

    Raises: RecipeError if it cannot be built, a pass fails, or a result is not finite.
    """
    started = time.monotonic()
    model = build_model(recipe)
    check_update(recipe, model)
    target = synthetic(model.data, 1)
    try:
        outcome = model.trial(target)
        outcome.backward()
    except VqtkError:
        raise
    except Exception as error:
        raise RecipeError(f"recipe {recipe.name!r}: its model fails on one item: {told(error)}") from error
    if not torch.isfinite(outcome):
        raise RecipeError(f"recipe {recipe.name!r}: the losses of a new model are not finite. Check norms and scales.")
    silent = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if silent:
        raise RecipeError(
            f"recipe {recipe.name!r}: the gradient of {silent[0]!r} is not finite. Check norms and scales."
        )
    parameters = sum(p.numel() for p in model.parameters())
    return Validation(parameters, model.bits, time.monotonic() - started)


def synthetic(data: DataSpec, n: int) -> Tensor:
    """Return n random items in training units, of the shape of the data: (n, *shape)."""
    generator = torch.Generator().manual_seed(0)
    if data.kind in ("points", "signals"):
        return data.normalise(torch.randn(n, *data.shape, generator=generator))
    high = {"image": 256, "text": data.classes or 1, "voxels": 2}[data.kind]
    raw = torch.randint(high, (n, *data.shape), generator=generator)
    return data.normalise(raw if data.kind == "text" else raw.to(torch.uint8))
