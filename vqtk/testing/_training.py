"""The contracts of what a trainer is made of: objectives, optimisers, schedules, revivals and callbacks."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast
from unittest import SkipTest

import torch
from torch import Tensor, nn

from vqtk.callbacks import Callback, Progress, Started, Tracker
from vqtk.errors import VqtkError
from vqtk.models import Model
from vqtk.optimizers import copy_weights, evaluating
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.signature import parameters
from vqtk.registry import REGISTRIES
from vqtk.revivals import Revival
from vqtk.testing._case import EXAMPLES, Case, Clause, Untouched, apart, check_gradients, near, seeded
from vqtk.testing._surroundings import moved_model, recipe_with
from vqtk.training.capture import restore


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


# ── optimisers ───────────────────────────────────────────────────────────────────────────────────

_STEPS = 4


def lowers_a_quadratic(case: Case) -> None:
    """The weights to evaluate are nearer to the minimum after 100 steps, and the learning rates are numbers."""
    model, optimizer = _pair(case)
    for group in optimizer.param_groups:
        if not isinstance(group.get("lr"), float):
            case.fail(
                f"the `lr` of a group of parameters is {group.get('lr')!r}.",
                "Give every group an `lr`, a Python number: the schedule starts from it, and training sets it before "
                "each step.",
            )
    before = _distance(model).item()
    _descend(model, optimizer, 100)
    with evaluating(model, optimizer, None):
        after = _distance(model).item()
    if not after < before:
        case.fail(f"a quadratic of {before:.4g} is {after:.4g} after 100 steps.", "Step against the gradient.")


def keeps_weights_where_they_are_at_a_learning_rate_of_zero(case: Case) -> None:
    """The step is proportional to the `lr` of its group at that time, weight decay included."""
    model, optimizer = _pair(case)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = _weights(model)
    _descend(model, optimizer, _STEPS)
    if _differing(before, _weights(model)):
        case.fail(
            "steps at `lr` 0 change the weights.",
            'Read `group["lr"]` at every step, and multiply the whole step by it.',
        )


def changes_every_parameter_with_a_gradient_and_no_other(case: Case) -> None:
    """Parameters of any shape are trained; without a gradient they are left alone."""
    model, optimizer = _pair(case)
    before = _weights(model)
    _descend(model, optimizer, _STEPS, without="0.bias")
    found = set(_differing(before, _weights(model)))
    expected = {name for name, _ in model.named_parameters()} - {"0.bias"}
    if found != expected:
        wrong = sorted(found ^ expected)
        case.fail(
            f"it does the wrong thing with the parameter `{wrong[0]}`.",
            "Pass `model.parameters()` on, and skip parameters whose gradient is None.",
        )


def resumes_from_its_saved_state_bit_for_bit(case: Case) -> None:
    """Steps after saving and loading `state_dict` and the weights, as checkpoints do, are those without."""
    whole, optimizer = _pair(case)
    _descend(whole, optimizer, _STEPS)
    file = io.BytesIO()
    try:
        torch.save({"state": optimizer.state_dict(), "weights": list(_weights(whole).values())}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    except Exception as error:
        case.fail(f"its state cannot be saved and loaded: {error}.", "Keep numbers and tensors in its state.")
    resumed, other = _pair(case)
    copy_weights(saved["weights"], list(resumed.parameters()))
    restore(other, saved["state"])
    for model, one in ((whole, optimizer), (resumed, other)):
        _descend(model, one, _STEPS)
    differing = _differing(_weights(whole), _weights(resumed))
    if differing:
        case.fail(
            f"after saving and loading, the parameter `{differing[0]}` is trained differently.",
            "Keep all that a step depends on in `self.state[parameter]` and in the groups of parameters.",
        )


OPTIMIZER_CHECKS: list[Clause] = [
    lowers_a_quadratic,
    keeps_weights_where_they_are_at_a_learning_rate_of_zero,
    changes_every_parameter_with_a_gradient_and_no_other,
    resumes_from_its_saved_state_bit_for_bit,
]


def _pair(case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network with filters, matrices, vectors and a scalar, and the optimiser for it."""
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 6), nn.PReLU()))
    return network, _built(case, network)


def _built(case: Case, *supplied: Any) -> Any:
    """Return a new component, not a copy: a copy of an optimiser would have parameters of its own."""
    return case.new(*supplied, dtype=torch.float32)


def _distance(model: nn.Module) -> Tensor:
    """Return half the squared distance of all weights from 1, which also has a gradient where they are 0."""
    return cast(Tensor, sum((weight - 1).square().sum() for weight in model.parameters())) / 2


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, without: str = "") -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        _distance(model).backward()
        for name, weight in model.named_parameters():
            if name == without:
                weight.grad = None
        optimizer.step()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def _differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


# ── schedules ────────────────────────────────────────────────────────────────────────────────────

_LR = 1e-3
_RUNS = (1, 2, 10, 500)
"""The lengths of runs, in updates, that a schedule is tried on."""


def gives_a_finite_learning_rate_that_is_not_negative(case: Case) -> None:
    """It is a Python number at every update of a run of any length."""
    schedule = _built(case)
    for updates in _RUNS:
        for update, rate in enumerate(_rates(schedule, updates), 1):
            if not isinstance(rate, (int, float)) or not isfinite(rate) or rate < 0:
                case.fail(
                    f"the rate of update {update} of {updates} is {rate!r}.", "Return a finite number that is not < 0."
                )


def depends_only_on_the_update_the_number_of_updates_and_lr(case: Case) -> None:
    """A resumed run continues at the rate of an uninterrupted one."""
    schedule = _built(case)
    forwards = _rates(schedule, 20)
    backwards = [schedule(update, 20, _LR) for update in range(20, 0, -1)]
    if forwards != backwards[::-1]:
        case.fail("a rate depends on the calls before.", "Compute it from `update`, `updates` and `lr`; keep no state.")


def ends_at_its_final_rate_however_long_the_run_is(case: Case) -> None:
    """A schedule with a setting `final` that changes the rate after the warm-up has this rate at the last update."""
    schedule = _built(case)
    if "final" not in parameters(case.entry.component):
        return
    for updates in _RUNS[2:]:
        rates = _rates(schedule, updates)
        warmup = min(getattr(schedule, "warmup", 0), updates)
        if len(set(rates[warmup:])) > 1 and abs(rates[-1] - schedule.final) > 1e-9 * _LR:
            case.fail(
                f"the last of {updates} updates has the rate {rates[-1]:g}; `final` is {schedule.final:g}.",
                "Reach `final` at the last update.",
            )


def rises_to_lr_in_the_warm_up(case: Case) -> None:
    """During a `warmup`, if it has one, the rate rises in equal steps to `lr`."""
    schedule = _built(case)
    warmup = getattr(schedule, "warmup", 0)
    rates = _rates(schedule, 500)[:warmup]
    if any(abs(rate - _LR * (index + 1) / warmup) > 1e-9 * _LR for index, rate in enumerate(rates)):
        case.fail(f"the rates of the warm-up are {rates}.", "Extend `vqtk.schedules.Schedule`, which warms up.")


SCHEDULE_CHECKS: list[Clause] = [
    gives_a_finite_learning_rate_that_is_not_negative,
    depends_only_on_the_update_the_number_of_updates_and_lr,
    ends_at_its_final_rate_however_long_the_run_is,
    rises_to_lr_in_the_warm_up,
]


def _rates(schedule: Any, updates: int) -> Sequence[float]:
    return [schedule(update, updates, _LR) for update in range(1, updates + 1)]


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
    callback = _built(case)
    if not isinstance(callback, Callback):
        case.fail(f"it is a {type(callback).__name__}.", "Extend `vqtk.Callback`.")


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
    callback = _built(case)
    if isinstance(callback, Tracker):
        raise SkipTest(f"{case.component}: a tracker writes to its tool, so its events are not tried out.")
    return callback


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
