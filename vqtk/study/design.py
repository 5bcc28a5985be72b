"""The design of a study: its axes, combined into variants, and the equal terms that these are trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from typing import Any

import torch

from vqtk.errors import RecipeError, VqtkError, nearest, shortened
from vqtk.nn.types import Count, Positive
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.schema import INVALID, Scope, parse
from vqtk.runs.start import WARM_UP, seconds
from vqtk.train.execution import Execution, flops_of, resolve, synchronize
from vqtk.train.loop import Trainer

Choices = dict[str, str]
"""The name of the value on each axis."""
Names = dict[str, list[str]]
"""The names of the values of each axis."""
JOIN = "+"
MOST_VARIANTS = 1_000
"""The most variants of a study: each is resolved and tried out before the first one is trained."""
_ADVICE = f"A study has at most {MOST_VARIANTS:,}: make several of fewer axes, or list the variants to run as `cells`."


def name_of(choices: Choices) -> str:
    """Return the name of the variant of these choices."""
    return JOIN.join(choices.values())


def word(node: Node) -> str | None:
    """Return a name as text, also one that YAML reads as a number; None if the node is no name."""
    plain = isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool)
    return str(node.value) if plain else None


def baseline_of(root: Node, names: Names, problems: Problems) -> Choices:
    """Return the baseline's choices: those of `baseline`, and the first value of an axis that it leaves out."""
    first = {axis: values[0] for axis, values in names.items()}
    node = root.value.get("baseline")
    if node is None:
        return first
    if isinstance(node.value, dict):
        return {**first, **_choices(node, names, "baseline", problems)}
    named = word(node)
    values = str(named).split(JOIN)  # No value has the sign that joins them in its name.
    if named is None or len(values) != len(names) or not all(map(list.__contains__, names.values(), values)):
        known = [name_of(choices) for choices in islice(_full_factorial(names), MOST_VARIANTS)]
        problems.add(
            node, "baseline", f"no variant is called {shortened(repr(named))}. {nearest(str(named), known)}The "
            f"variants: {_listed(known)}; a number that is written in another way needs quotes.",
        )  # fmt: skip
        return first
    return dict(zip(names, values, strict=True))


def variants_of(root: Node, names: Names, baseline: Choices, problems: Problems) -> list[Choices]:
    """Return the choices of each variant: those of `cells`, without those that `exclude` takes out."""
    variants = _all_variants(root, names, baseline, problems)
    excluded = root.value.get("exclude")
    for index, (node, chosen) in enumerate(_list_of_choices(excluded, names, "exclude", problems)):
        left = [variant for variant in variants if not chosen.items() <= variant.items()]
        if len(left) == len(variants):
            message = f"no variant has {_pairs(chosen)}: this takes nothing out. Remove it."
            problems.add(node, f"exclude.{index}", message)
        variants = left
    if not variants and excluded and not problems.found:
        problems.add(excluded, "exclude", "this takes out every variant, so nothing is left to run. Take out fewer.")
    elif baseline not in variants and not problems.found:
        node = root.value.get("baseline", root)
        problems.add(
            node, "baseline", f"{name_of(baseline)!r} is no variant of this study, so nothing can be compared with it. "
            f"Name another as `baseline`, or do not take it out. The variants: "
            f"{_listed([repr(name_of(variant)) for variant in variants])}.",
        )  # fmt: skip
    return variants


def _all_variants(root: Node, names: Names, baseline: Choices, problems: Problems) -> list[Choices]:
    node = root.value.get("cells")
    if node is None or node.value == "grid":
        count = prod(map(len, names.values()))
        if count > MOST_VARIANTS:
            problems.add(root.value["axes"], "axes", f"{count:,} combinations of their values. {_ADVICE}")
            return [baseline]
        return list(_full_factorial(names))
    if node.value == "one_at_a_time":
        others = [{**baseline, axis: value} for axis, values in names.items() for value in values]
        return _distinct([baseline, *others])
    if isinstance(node.value, list) and len(node.value) > MOST_VARIANTS:
        problems.add(node, "cells", f"{len(node.value):,} variants. {_ADVICE}")
        return [baseline]
    if not isinstance(node.value, list) or not node.value:
        near = nearest(str(node.value), ["grid", "one_at_a_time"])
        problems.add(
            node, "cells", f"expected grid, one_at_a_time, or a list of choices as in [{{{next(iter(names))}: "
            f"{next(iter(names.values()))[0]}}}]. {near}".rstrip(),
        )  # fmt: skip
        return []
    variants = [{**baseline, **chosen} for _, chosen in _list_of_choices(node, names, "cells", problems)]
    for index, variant in enumerate(variants):
        if variant in variants[:index]:
            message = f"the variant {name_of(variant)!r} is listed twice. Remove one."
            problems.add(node.value[index], f"cells.{index}", message)
    return variants


def _full_factorial(names: Names) -> Iterator[Choices]:
    return (dict(zip(names, values, strict=True)) for values in product(*names.values()))


def _distinct(variants: list[Choices]) -> list[Choices]:
    return [variant for index, variant in enumerate(variants) if variant not in variants[:index]]


def _list_of_choices(node: Node | None, names: Names, path: str, problems: Problems) -> list[tuple[Node, Choices]]:
    if node is None:
        return []
    if not isinstance(node.value, list):
        problems.add(node, path, f"expected a list of choices, as in [{{{next(iter(names))}: …}}].")
        return []
    return [(child, _choices(child, names, f"{path}.{i}", problems)) for i, child in enumerate(node.value)]


def _choices(node: Node, names: Names, path: str, problems: Problems) -> Choices:
    """Return the value of each axis that a mapping names; with a single axis, the name of its value is enough."""
    given: Any = node.value
    if len(names) == 1 and word(node) is not None:
        given = {next(iter(names)): node}
    if not isinstance(given, dict) or not given:
        problems.add(node, path, f"expected a mapping from axes ({', '.join(names)}) to their values.")
        return {}
    chosen = {}
    for axis, child in given.items():
        value = word(child)
        known = names.get(axis)
        if known is None:
            near = nearest(axis, list(names))
            problems.add(child, path, f"no axis is called {shortened(repr(axis))}. {near}The axes: {', '.join(names)}.")
        elif value not in known:
            near = nearest(str(value), known)
            problems.add(
                child, path, f"the axis {axis!r} has no value {shortened(repr(value))}. {near}It has {_listed(known)}."
            )
        else:
            chosen[axis] = value
    return chosen


def _pairs(choices: Choices) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in choices.items())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" … ({len(names)} in all)" if len(names) > 12 else "")


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
