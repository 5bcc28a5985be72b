"""A model around the component under test: data and components that fit, found by trial."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import Recipe, from_plain
from vqtk.recipe.schema import Scope, parse
from vqtk.registry import REGISTRIES, Settings
from vqtk.testing._case import EXAMPLES, OPTIONS, Case, moved

_DATA: dict[int, Settings] = {
    2: {"name": "celeba", "size": 8},
    1: {"name": "wikitext2", "length": 8, "vocabulary": 5},
    3: {"name": "modelnet", "size": 4},
    0: {"name": "toy2d"},
}
"""The data to test a component on, by the first of these dimensions that it supports; only the shape matters."""

_LOSSES = {"text": "categorical", "voxels": "bernoulli"}
_TIMES = (1, 0, 2, 3)
"""How many times the backbone halves the size, or the head doubles it, in the order of trial."""


def model_of(case: Case) -> tuple[Any, Recipe, Tensor]:
    """Return a float64 model with the component in it, its recipe, and examples in training units."""
    built, recipe = case.kept("model", lambda: _built(case))
    model = copy.deepcopy(built)
    target = synthetic(model.data, EXAMPLES)
    return model, recipe, target.double() if target.is_floating_point() else target


def own_data(case: Case) -> DataSpec | None:
    """Return the spec of the data that the component is registered with; None if there are none."""
    return None if case.entry.data is None else _spec_of(case, case.entry.data)


def recipe_with(case: Case, model: Settings, objective: Settings | None = None) -> Recipe:
    """Return a recipe of a model on the component's data. Raises: RecipeError."""
    train = {"updates": 1, **({"objective": objective} if objective else {})}
    values = {"name": "contract", "data": data_of(case), "model": model, "train": train}
    return from_plain(values, f"the trial of {case.component}", plugins=case.plugins)


def data_of(case: Case) -> Settings:
    """Return the data set for a component's model: its own, or one of its dimensions."""
    if case.entry.data is not None:
        return dict(case.entry.data)
    return next(data for dimensions, data in _DATA.items() if dimensions in case.entry.dimensions)


def moved_model(recipe: Recipe) -> Any:
    """Return the model of a recipe in float64, its initial weights perturbed."""
    return moved(build_model(recipe, dtype=torch.float64), by=0.3)


def _built(case: Case) -> tuple[Any, Recipe]:
    """Return the first of the candidate models that can be built, and its recipe."""
    errors: list[str] = []
    for candidate in _candidates(case):
        try:
            recipe = recipe_with(case, candidate)
            return moved_model(recipe), recipe
        except VqtkError as error:
            errors.append(str(error))
    relevant = [error for error in errors if "the refiner's head returns size" not in error]
    case.fail(
        f"no model can be built with it. {' '.join((relevant or errors)[0].split())}",
        f"{len(errors)} recipes were tried, with backbones that halve the size and heads that double it up to 3 times. "
        "Register it with an `example={…}` that fits, or with the `data={…}` that it needs.",
    )


def _candidates(case: Case) -> Iterator[Settings]:
    kind = case.registry.kind
    if kind == "model":
        yield case.spec
    elif kind in ("backbone", "head", "block"):
        own = {kind: case.spec} if kind != "block" else {"blocks": [case.spec]}
        for halved in _TIMES if kind != "backbone" else (0,):
            for doubled in _TIMES if kind != "head" else (0,):
                yield {**vqdraw(case), "refiner": {**_parts(halved, doubled), **own}}
    elif kind == "refiner":
        yield {**vqdraw(case), "refiner": case.spec}
    else:
        for times in (1, 0):
            own = {} if kind in ("guide", "objective") else {kind: case.spec}
            yield {**vqdraw(case), "refiner": _parts(times, times), **own}


def vqdraw(case: Case) -> Settings:
    """Return the settings of a small vqdraw for the component's data, without its refiner."""
    loss = _LOSSES.get(_spec_of(case, data_of(case)).kind, "mse")
    return {"name": "vqdraw", "stages": 4, "options": OPTIONS, "segment": 2, "loss": loss}


def _parts(halved: int, doubled: int) -> Settings:
    fine = {"width": 6, "then": ["condition", "relu", "layer"]}
    coarse = [{"width": 8, "stride": 2}] * halved
    up = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}] * doubled
    return {
        "backbone": {"name": "conv", "layers": [fine, {"width": 8, "kernel": 5}, *coarse]},
        "blocks": [{"name": "conv", "width": 8}],
        "head": {"name": "conv", "layers": up},
    }


def _spec_of(case: Case, data: Settings) -> DataSpec:
    problems = Problems()
    node = Node.of(data, "data")
    chosen = parse(node, Annotated[Any, REGISTRIES["dataset"]], "data", Scope(problems))
    if problems.found:
        case.fail(
            f"its `data` cannot be used: {' '.join(problems.found)}",
            "Correct the `data={…}` that it is registered with.",
        )
    return chosen().spec
