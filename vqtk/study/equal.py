"""Equal terms: how long each variant of a study trains."""

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
_SENTENCES = {
    "updates": "Every run trains for {value:,} updates.",
    "items": "Every run trains on {value:,} examples.",
    "flops": "Every run trains for {value:g} floating-point operations.",
    "time": "Every run trains for as many updates as take {value}, measured once for each variant, without "
    "evaluation and images.",
}


@dataclass(frozen=True)
class Equal:
    """A budget that all runs of a study share: `updates`, training examples (`items`), training `flops`, or `time`."""

    by: str
    value: float | str

    def sentence(self) -> str:
        """Return it as a sentence."""
        return _SENTENCES[self.by].format(value=self.value)


def equal_of(node: Node | None, problems: Problems) -> Equal | None:
    """Return the budget that a study names; None if it names none."""
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
    """Return for how many updates a variant trains; `step` is the seconds of one, for a budget of time.

    Raises: RecipeError if the budget is less than one update.
    """
    each: float = 1
    if equal.by == "items":
        each = recipe.examples_per_update
    elif equal.by == "flops":
        each = training_flops(recipe) * recipe.examples_per_update
    elif step is not None:
        each = step
    whole = seconds(str(equal.value)) if equal.by == "time" else float(equal.value)
    if whole < each:
        unit = {"time": "s", "items": "examples"}.get(equal.by, equal.by)
        raise RecipeError(
            f"the budget, {equal.by} {equal.value}, is less than one update of {recipe.name!r}, which takes "
            f"{each:.3g} {unit}. Give more."
        )
    return int(whole / each)


def training_flops(recipe: Recipe) -> int:
    """Return the operations of training on one example, forwards and backwards."""
    trainer = Trainer(recipe, build_model(recipe), Execution())
    return flops_of(lambda: trainer.update([synthetic(trainer.model.data, 1)], updates=1))


def step_s(recipe: Recipe, device: torch.device, *, steps: int = WARM_UP) -> float:
    """Return the seconds of an update on synthetic examples: the least of `steps`, since load only adds to it."""
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
