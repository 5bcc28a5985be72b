"""The design of a study: the values of its axes, and the combinations of these that are its variants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from math import isfinite, prod
from pathlib import Path
from random import Random
from typing import Any

from vqtk.errors import nearest, shortened
from vqtk.recipe.node import Node, Problems

Choices = dict[str, str]
"""The name of the value on each axis."""
Names = dict[str, list[str]]
"""The names of the values of each axis."""
JOIN = "+"
MOST_VARIANTS = 1_000
"""The most variants of a study: each is resolved and tried out before the first one is trained."""
_ADVICE = f"A study has at most {MOST_VARIANTS:,}: make several of fewer axes, or list the variants to run as `cells`."


BASE = "base"
"""The value that an axis of all numbers in a range has in the baseline: the setting as the base has it."""
_DRAWS = 100
"""How often a random variant is drawn again, on average, before a design counts as exhausted."""


@dataclass(frozen=True)
class Value:
    """A value of an axis: overrides, or a recipe that replaces the base; and its place in the study's file."""

    overrides: tuple[str, ...]
    recipe: Path | None
    where: str


Axes = dict[str, dict[str, Value]]


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, even on a scale, `log` or `linear`: `n` of them, or all if that is None."""

    scale: str
    low: float
    high: float
    n: int | None

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole: both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float:
        """Return the number at a share from 0 to 1 of the way, rounded: to four digits, or to a whole number."""
        if share in (0, 1):
            return self.high if share else self.low
        log = self.scale == "log"
        value = self.low * (self.high / self.low) ** share if log else self.low + (self.high - self.low) * share
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """Return a number of the range as it is written into a recipe."""
        return round(value) if self.whole else float(f"{value:.4g}")

    def numbers(self) -> list[float]:
        """Return its `n` numbers, each once."""
        assert self.n
        return list(dict.fromkeys(self.at(index / (self.n - 1)) for index in range(self.n)))


def is_range(node: Node) -> bool:
    """Return whether the values of an axis are written as a range, and not as named overrides."""
    if not isinstance(node.value, dict) or not node.value or not node.value.keys() <= {"log", "linear", "n"}:
        return False
    ends = [child.value for key, child in node.value.items() if key != "n"]
    return "n" in node.value or any(isinstance(one, list) and one and not _words(one) for one in ends)


def _words(children: list[Node]) -> bool:
    return any(isinstance(child.value, str) for child in children)


def range_of(node: Node, place: str, problems: Problems) -> Range | None:
    """Return the range that a node describes; None, with a problem noted, if it describes none."""
    scales, n = [key for key in node.value if key != "n"], node.value.get("n")
    ends: Any = node.value[scales[0]].plain() if len(scales) == 1 else None
    numbers = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] < ends[1]
    if not numbers or (scales[0] == "log" and ends[0] <= 0):
        problems.add(
            node, place, "expected numbers as {log: [1e-4, 1e-2], n: 5} or {linear: [0, 1], n: 5}: the lowest, the "
            "highest, and how many. The lowest of `log` is more than 0.",
        )  # fmt: skip
        return None
    if n is not None and (type(n.value) is not int or not 2 <= n.value <= MOST_VARIANTS):
        problems.add(n, f"{place}.n", f"expected a whole number from 2 to {MOST_VARIANTS:,}, got {n.plain()!r}.")
        return None
    return Range(scales[0], ends[0], ends[1], n.value if n else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def number_name(axis: str, number: float) -> str:
    """Return the name of a number on an axis, as in lr_0.001."""
    return f"{axis.rpartition('.')[2]}_{number}".replace(JOIN, "")


def add_number(axes: Axes, axis: str, number: float, where: str) -> str:
    """Add a number to the values of an axis, whose name is the path of the setting; return the number's name."""
    name = number_name(axis, number)
    axes[axis].setdefault(name, Value((f"{axis}={number!r}",), None, where))
    return name


# ── combinations ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Drawn:
    """A design of `count` variants besides the baseline, drawn by `random` or proposed by `optuna`.

    Arguments:
        by: which of the two.
        count: how many.
        seed: of the draws.
        batch: how many optuna proposes at a time, before it sees their results.
        prune: whether hopeless runs are ended early.
    """

    by: str
    count: int
    seed: int = 0
    batch: int = 1
    prune: bool = False


def drawn_of(node: Node | None, problems: Problems) -> Drawn | None:
    """Return the design that `cells` describes if its variants are drawn; None if they are listed or combined."""
    if node is None or not isinstance(node.value, dict):
        return None
    given = node.plain()
    by = [name for name in ("random", "optuna") if name in given]
    allowed = {"random": {"random", "seed"}, "optuna": {"optuna", "seed", "batch", "prune"}}
    whole = all(type(value) is int and value >= (key != "seed") for key, value in given.items() if key != "prune")
    if len(by) != 1 or not given.keys() <= allowed[by[0]] or not whole or type(given.get("prune", False)) is not bool:
        problems.add(
            node, "cells", "expected {random: 20}, with a `seed` if you like, or {optuna: 20}, with a `seed`, a "
            "`batch` and `prune: true` if you like; the numbers are whole.",
        )  # fmt: skip
        return None
    count = given.pop(by[0])
    if count >= MOST_VARIANTS:
        problems.add(node, "cells", f"{count:,} variants. {_ADVICE}")
        return None
    return Drawn(by[0], count, **given)


def drawn_variants(drawn: Drawn, axes: Axes, ranges: dict[str, Range], baseline: Choices) -> list[Choices]:
    """Return the baseline and distinct random variants, fewer than asked for if there are no more.

    Numbers are drawn evenly on the scale of their range, and other values with equal chances. New numbers are added to
    the axes.
    """
    drawn_by, variants = Random(drawn.seed), [baseline]
    listed = {axis: list(values) for axis, values in axes.items()}
    for _ in range(_DRAWS * drawn.count):
        if len(variants) > drawn.count:
            break
        choices = {}
        for axis, names in listed.items():
            share, numbers = drawn_by.random(), ranges.get(axis)
            if numbers and numbers.n is None:
                choices[axis] = add_number(axes, axis, numbers.at(share), axes[axis][BASE].where)
            else:
                choices[axis] = names[int(share * len(names))]
        if choices not in variants:
            variants.append(choices)
    return variants


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
    if isinstance(node.value, dict):  # The others are drawn.
        return [baseline]
    if isinstance(node.value, list) and len(node.value) > MOST_VARIANTS:
        problems.add(node, "cells", f"{len(node.value):,} variants. {_ADVICE}")
        return [baseline]
    if not isinstance(node.value, list) or not node.value:
        near = nearest(str(node.value), ["grid", "one_at_a_time"])
        problems.add(
            node, "cells", "expected grid, one_at_a_time, {random: 20}, {optuna: 20}, or a list of choices as in "
            f"[{{{next(iter(names))}: "
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
        if known and value not in known and _is_number(child.value):
            value = number_name(axis, child.value)
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
