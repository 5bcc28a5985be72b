"""The contracts of objectives, revivals and callbacks."""

from __future__ import annotations

import copy
import tempfile
from math import isfinite
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from vqtk.callbacks import Callback, Progress, Started, Tracker
from vqtk.errors import VqtkError
from vqtk.models import Model
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe
from vqtk.registry import REGISTRIES
from vqtk.revivals import Revival
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


OBJECTIVE_CHECKS: list[Clause] = [
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
    with torch.no_grad():
        draws = objective.prepare(batch, draws)
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


# ── revivals ────────────────────────────────────────────────────────────────────────────────────

_MODEL = {
    "stages": 3,
    "options": 4,
    "stage_biases": True,
    "loss": "mse",
    "refiner": {
        "backbone": {"name": "conv", "layers": [{"width": 8, "stride": 2}]},
        "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    },
}
_UPDATES = 60
"""The most updates until a revival must have acted."""


def leaves_options_alone_that_are_chosen_equally_often(case: Case) -> None:
    """Where every option is chosen equally often, no weight changes."""
    model, optimizer, revival, target = _revived(case)
    before = copy.deepcopy(model.state_dict())
    for update in range(_UPDATES):
        _act(revival, optimizer, torch.full_like(revival.counts, 5), target, update)
    if not _equal(before, model.state_dict()):
        case.fail(
            "weights changed although every option was chosen equally often.",
            "Change only options that `counts` shows to be rare.",
        )


def changes_an_option_that_is_never_chosen(case: Case) -> None:
    """Where the last option is never chosen, weights change within a few windows, and stay finite."""
    model, optimizer, revival, target = _revived(case)
    before = copy.deepcopy(model.state_dict())
    for update in range(_UPDATES):
        _act(revival, optimizer, _idle_last(revival), target, update)
    if _equal(before, model.state_dict()):
        case.fail(
            f"no weight changed in {_UPDATES} updates, although an option was never chosen.",
            "Change the rows of `model.option_rows(stage)` in `revive`, or give a smaller `window` as an example.",
        )
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        case.fail("weights are not finite after it.", "Divide by nothing that can be 0, such as a spread.")


def draws_only_with_the_generator_that_it_is_given(case: Case) -> None:
    """Two equal runs end equal, and torch's default generator is not used."""
    state = torch.get_rng_state()
    ends = []
    for _ in range(2):
        model, optimizer, revival, target = _revived(case)
        torch.set_rng_state(state)
        for update in range(_UPDATES):
            _act(revival, optimizer, _idle_last(revival), target, update)
        ends.append(model.state_dict())
    if not _equal(*ends):
        case.fail("two equal runs ended differently.", "Draw random numbers only with the generator that it is given.")
    if not torch.equal(torch.get_rng_state(), state):
        case.fail("it draws from torch's default generator.", "Draw with the generator that it is given.")


def continues_exactly_from_its_saved_state(case: Case) -> None:
    """Interrupted in the middle of a window, with `state_dict` and `load_state_dict`, it ends as without."""
    ends = []
    for stop in (None, 7):
        model, optimizer, revival, target = _revived(case)
        for update in range(_UPDATES):
            if update == stop:
                kept = copy.deepcopy(revival.state_dict())
                revival = case.new(model)
                revival.load_state_dict(kept)
            _act(revival, optimizer, _idle_last(revival), target, update)
        ends.append(model.state_dict())
    if not _equal(*ends):
        case.fail(
            "a run that was interrupted ended differently.",
            "Return all that `revive` depends on from `state_dict`, and restore it in `load_state_dict`.",
        )


REVIVAL_CHECKS: list[Clause] = [
    leaves_options_alone_that_are_chosen_equally_often,
    changes_an_option_that_is_never_chosen,
    draws_only_with_the_generator_that_it_is_given,
    continues_exactly_from_its_saved_state,
]


def _revived(case: Case) -> tuple[Any, torch.optim.Optimizer, Revival, Tensor]:
    """Return a model with an optimiser that has moments, a revival of it, and examples."""
    model = case.kept("model", lambda: build_model(recipe_with(case, _MODEL), dtype=torch.float64))
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    target = synthetic(model.data, EXAMPLES).double()
    model.walk(target).choice.backward()
    optimizer.step()
    return model, optimizer, case.new(model), target


def _act(revival: Revival, optimizer: torch.optim.Optimizer, usage: Tensor, target: Tensor, update: int) -> None:
    revival.after_update(optimizer, usage, target, torch.Generator().manual_seed(update))


def _idle_last(revival: Revival) -> Tensor:
    usage = torch.full_like(revival.counts, 5)
    usage[:, -1] = 0
    return usage


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# ── callbacks ────────────────────────────────────────────────────────────────────────────────────


def extends_the_base_class_of_callbacks(case: Case) -> None:
    """It is a `Callback`, so that events that vqtk adds later do not fail."""
    found = case.entry.component if _is_tracker(case) else type(case.new(dtype=torch.float32))
    if not issubclass(found, Callback):
        case.fail(f"it is a {found.__name__}.", "Extend `vqtk.Callback`.")


def takes_the_events_of_one_run_after_another(case: Case) -> None:
    """A callback that is given to two runs follows both, with no metrics yet and with some."""
    callback, (recipe, model) = _following(case), _followed(case)
    for row in ({}, {"choice": 1.0}):
        _follow(callback, recipe, model, row)


def changes_no_weight(case: Case) -> None:
    """Images and test metrics are of the model that was trained."""
    callback, (recipe, model) = _following(case), _followed(case)
    weights = Untouched(case, weights=[weight.detach() for weight in model.parameters()])
    _follow(callback, recipe, model, {"choice": 1.0})
    weights.check("the events of a run")


CALLBACK_CHECKS: list[Clause] = [
    extends_the_base_class_of_callbacks,
    takes_the_events_of_one_run_after_another,
    changes_no_weight,
]


def _following(case: Case) -> Callback:
    """Return the callback. Raises: SkipTest for a tracker, whose events would be written to its tool."""
    if _is_tracker(case):
        raise SkipTest(f"{case.component}: a tracker writes to its tool, so its events are not tried out.")
    return case.new(dtype=torch.float32)


def _is_tracker(case: Case) -> bool:
    """Return whether the component is a tracker, which is not built: its tool may not be installed."""
    component = case.entry.component
    return isinstance(component, type) and issubclass(component, Tracker)


def _followed(case: Case) -> tuple[Recipe, Model]:
    recipe = recipe_with(case, {"name": "vqdraw", **REGISTRIES["model"].get("vqdraw").example})
    return recipe, build_model(recipe)


def _follow(callback: Callback, recipe: Recipe, model: Model, row: dict[str, float]) -> None:
    """Call a callback with the events of a run of two updates."""
    with tempfile.TemporaryDirectory() as folder:
        callback.on_start(Started(Path(folder), recipe, {}, model, 0, lambda line: None))
        for update in (1, 2):
            callback.on_update(Progress(update, 2, row, 1.0))
            callback.on_evaluation(update, {"items": 2, "of": 2, **row})
            callback.on_usage(update, [[1] * model.options] * model.stages)
            callback.on_images(update, {})
        callback.on_message("a line")
        callback.on_end(True)
