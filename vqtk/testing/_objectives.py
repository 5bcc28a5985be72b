"""The contract of objectives: a loss with a gradient for the model, terms to log, and codes."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.models import Model
from vqtk.recipe.build import synthetic
from vqtk.registry import REGISTRIES
from vqtk.testing._case import EXAMPLES, Case, Clause, Untouched, apart, check_gradients, near, seeded
from vqtk.testing._surroundings import moved_model, recipe_with


def returns_a_loss_terms_and_codes(case: Case) -> None:
    """The loss and every term are finite scalars, and codes (n, stages) are options."""
    objective, model, batch = _made(case)
    passed = _pass(objective, batch, recompute=0)
    for name, value in {"loss": passed.loss, **passed.terms}.items():
        if value.dim() or not value.isfinite():
            case.fail(f"`{name}` is {value}.", "The loss and every term must be finite scalars, means over the batch.")
    if not passed.terms:
        case.fail("it returns no terms.", "Return at least one, for `metrics.jsonl`.")
    expected, codes = (len(batch), model.stages), passed.codes
    if tuple(codes.shape) != expected or codes.dtype != torch.int64:
        case.fail(f"its codes are {codes.dtype} of shape {tuple(codes.shape)}.", f"Return int64 of shape {expected}.")
    if not ((codes >= 0) & (codes < model.options)).all():
        case.fail(
            f"its codes are from {int(codes.min())} to {int(codes.max())}.",
            f"Codes must be from 0 to {model.options - 1}.",
        )


def trains_every_parameter_of_its_model(case: Case) -> None:
    """The loss has a gradient for every parameter."""
    objective, model, batch = _made(case)
    _pass(objective, batch, recompute=0).loss.backward()
    case.place = f"on a {type(model).__name__}"
    check_gradients(case, model, over="a pass")


def returns_the_same_loss_again_and_with_recomputed_activations(case: Case) -> None:
    """The loss is the same given the same draws, and the batch is not modified."""
    objective, _, batch = _made(case)
    inputs = Untouched(case, batch=batch)
    first, *others = (_pass(objective, batch, recompute=recompute) for recompute in (0, 0, 99))
    inputs.check("__call__")
    for other in others:
        if not near(other.loss, first.loss):
            case.fail(
                f"the loss differs when it passes over the same batch again: {apart(other.loss, first.loss)}.",
                "Draw random numbers in `draw`, with the generator that it is given.",
            )


def reports_values_that_a_file_can_hold(case: Case) -> None:
    """`figures` are finite numbers, and `facts` are plain values."""
    objective, _, batch = _made(case)
    for name, value in objective.figures(lambda: batch).items():
        if not isinstance(value, (int, float)) or not isfinite(value):
            case.fail(f"the metric `{name}` is {value!r}.", "Return finite numbers, not tensors: use `.item()`.")
    _check_plain(case, objective.facts(), "facts")


CHECKS: list[Clause] = [
    returns_a_loss_terms_and_codes,
    trains_every_parameter_of_its_model,
    returns_the_same_loss_again_and_with_recomputed_activations,
    reports_values_that_a_file_can_hold,
]


def _made(case: Case) -> tuple[Any, Any, Tensor]:
    """Return the objective for a model that it accepts, the model, and a batch."""
    recipe = case.kept("recipe", lambda: _recipe(case))
    model = moved_model(recipe)
    batch = synthetic(model.data, EXAMPLES)
    objective = _objective(case, recipe, model)
    return objective, model, batch.double() if batch.is_floating_point() else batch


def _recipe(case: Case) -> Any:
    """Return the recipe of the first registered model that the objective accepts."""
    registry, errors = REGISTRIES["model"], []
    for name in sorted(registry.entries(), key=lambda name: name != registry.default):
        try:
            recipe = recipe_with(case, {"name": name, **registry.get(name).example}, case.spec)
            _objective(case, recipe, moved_model(recipe))
        except VqtkError as error:
            errors.append(f"{name}: {' '.join(str(error).split())}")
        else:
            return recipe
    case.fail(
        f"it accepts none of the models. {' '.join(errors)}",
        "Register it with an `example={…}` that fits.",
    )


def _objective(case: Case, recipe: Any, model: Model) -> Any:
    """Return the objective; any trained model that it loads is a small vqdraw."""
    registry = REGISTRIES["model"]
    trained = recipe_with(case, {"name": "vqdraw", **registry.get("vqdraw").example})
    return seeded(lambda: recipe.train.objective(model, lambda name: moved_model(trained).eval()))


def _pass(objective: Any, batch: Tensor, *, recompute: int) -> Any:
    draws = objective.draw(len(batch), torch.Generator().manual_seed(0), progress=0.5)
    return objective(batch, draws=draws, recompute=recompute)


def _check_plain(case: Case, value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(case, inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_plain(case, inner, f"{place}.{index}")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        case.fail(f"`{place}` is a {type(value).__name__}.", "Return text, numbers, lists and mappings.")
