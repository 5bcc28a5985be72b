"""Equal terms: for how long each variant of a study trains."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from vqtk.errors import RecipeError, VqtkError
from vqtk.nn.types import Count, Positive
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.schema import INVALID, Scope, parse
from vqtk.runs.budget import WARM_UP, seconds
from vqtk.train.execution import Execution, flops_of, resolve, synchronize
from vqtk.train.loop import Trainer

_HINTS: dict[str, Any] = {"updates": Count, "items": Count, "flops": Positive, "time": str}
_SAID = {
    "updates": "Every run trains for {value:,} updates.",
    "items": "Every run trains on {value:,} items.",
    "flops": "Every run trains for {value:g} floating-point operations.",
    "time": "Every run trains for the updates that take {value}, measured once for each variant; evaluation and "
    "pictures are not counted.",
}


@dataclass(frozen=True)
class Equal:
    """What every run of a study has the same of: `updates`, training `items`, `flops` of training, or `time`."""

    by: str
    value: float | str

    def said(self) -> str:
        """Return it as a sentence."""
        return _SAID[self.by].format(value=self.value)


def equal_of(node: Node | None, problems: Problems) -> Equal | None:
    """Return the equal terms that a study names, None if it names none."""
    if node is None:
        return None
    if not isinstance(node.value, dict) or len(node.value) != 1 or not set(node.value) <= set(_HINTS):
        given = ", ".join(node.value) if isinstance(node.value, dict) and node.value else repr(node.plain())
        problems.add(
            node, "equal", f"expected one budget, of {', '.join(_HINTS)}, as in {{updates: 2000}}; got {given}."
        )
        return None
    ((by, child),) = node.value.items()
    value = parse(child, _HINTS[by], f"equal.{by}", Scope(problems))
    if value is INVALID:
        return None
    if by == "time":
        try:
            seconds(value)
        except VqtkError:
            problems.add(child, "equal.time", f"expected a duration such as 90s, 5m or 1h30m, got {value!r}.")
    return Equal(by, value)


def updates_of(equal: Equal, recipe: Recipe, *, step: float | None = None) -> int:
    """Return for how many updates a variant trains; `step` are the seconds of one, where terms are of time.

    Raises: RecipeError if the budget is less than one update.
    """
    each: float = 1
    if equal.by == "items":
        each = examples_an_update(recipe)
    elif equal.by == "flops":
        each = training_flops(recipe) * examples_an_update(recipe)
    elif step is not None:
        each = step
    whole = seconds(str(equal.value)) if equal.by == "time" else float(equal.value)
    if whole < each:
        unit = "s" if equal.by == "time" else equal.by
        raise RecipeError(
            f"the budget, {equal.value} of {equal.by}, is less than one update of {recipe.name!r}, which takes "
            f"{each:.3g} {unit}. Give more."
        )
    return int(whole / each)


def examples_an_update(recipe: Recipe) -> int:
    """Return how many items an update trains on."""
    return recipe.batch * recipe.train.accumulate


def training_flops(recipe: Recipe) -> int:
    """Return the operations of training on one item, forwards and backwards, counted on an update of one item."""
    trainer = Trainer(recipe, build_model(recipe), Execution())
    return flops_of(lambda: trainer.update([synthetic(trainer.model.data, 1)], updates=1))


def step_s(recipe: Recipe, device: torch.device, *, steps: int = WARM_UP) -> float:
    """Return the seconds of an update on synthetic items: those of the fastest of so many, for load only slows."""
    model = build_model(recipe, device=device)
    # A few updates do not earn a compilation, which would change the time by a tenth.
    trainer = Trainer(recipe, model, replace(resolve(recipe, model), inductor=False))
    batches = [synthetic(trainer.model.data, recipe.batch).to(device)] * recipe.train.accumulate
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        trainer.update(batches, updates=10**9)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
