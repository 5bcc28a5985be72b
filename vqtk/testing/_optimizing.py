"""The contracts of optimisers and schedules."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn

from vqtk.optimizers import copy_weights, evaluating
from vqtk.recipe.signature import parameters
from vqtk.testing._case import Case, Clause, seeded
from vqtk.training.capture import restore

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
