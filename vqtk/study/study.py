"""A study: which variants of a recipe are trained, from which seeds, on what equal terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len

from vqtk.compare.metrics import Criterion, criteria_of
from vqtk.compare.statistics import LEAST
from vqtk.errors import RecipeError, VqtkError, nearest, shortened
from vqtk.nn.types import Positive, Whole
from vqtk.plugin.loading import loaded_plugins
from vqtk.recipe.merge import overridden, take_plugins
from vqtk.recipe.node import Node, Problems, below, beside, is_file, read, shown_path
from vqtk.recipe.recipe import FolderName, load_recipe
from vqtk.recipe.schema import INVALID, Scope, parse
from vqtk.recipe.show import inline
from vqtk.runs.budget import Equal, equal_of
from vqtk.study.design import (
    BASE,
    MOST_VARIANTS,
    Axes,
    Choices,
    Drawn,
    Range,
    Value,
    add_number,
    baseline_of,
    drawn_of,
    drawn_variants,
    is_range,
    number_name,
    range_of,
    variants_of,
    word,
)
from vqtk.study.executors import RaySettings
from vqtk.study.slurm import SlurmSettings

KEYS = (
    "name", "base", "overrides", "plugins", "axes", "seeds", "baseline", "metrics", "within", "equal", "cells",
    "exclude", "executors",
)  # fmt: skip
DECIDED = {"seed": "`seeds`", "name": "the names of the axes' values", "train.updates": "`equal`"}
"""What the study itself decides, and where."""
_VALUE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Seeding:
    """Seeds that are added by Stein's two-stage procedure, until each difference is known to ± `until`.

    Arguments:
        start: the seeds of the first stage.
        most: the most seeds of a variant.
        until: half the width of the confidence interval that is asked for.
    """

    start: int
    most: int
    until: float


@dataclass(frozen=True, kw_only=True)
class Executors:
    """The settings of each executor that has any."""

    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    ray: RaySettings = field(default_factory=RaySettings)


@dataclass(frozen=True)
class Study:
    """A checked study.

    Arguments:
        name: of the study and its folder.
        path: of its file.
        base: the recipe that its variants vary.
        overrides: those of every variant.
        plugins: the files that its recipes may use components of.
        axes: the values of each axis, by name.
        ranges: of the axes that are swept over numbers.
        scales: how each axis of numbers is drawn, `log` or `linear`.
        seeds: of every variant at first.
        seeding: how seeds are added; None if none is.
        metrics: the main one first.
        within: the largest difference of the main metric that does not matter; None if equivalence is not tested.
        equal: the budget; None if every run trains for as many updates as the base.
        baseline: what variants are compared with.
        variants: the value of each on every axis.
        drawn: how variants are drawn or proposed; None if they are combinations.
        executors: how its runs are trained on a cluster. No result depends on it.
    """

    name: str
    path: Path
    base: Path
    overrides: tuple[str, ...]
    plugins: tuple[Path, ...]
    axes: Axes
    ranges: dict[str, Range]
    scales: dict[str, str]
    seeds: list[int]
    seeding: Seeding | None
    metrics: list[Criterion]
    within: float | None
    equal: Equal | None
    baseline: Choices
    variants: list[Choices]
    drawn: Drawn | None
    executors: Executors


@dataclass
class _Reading:
    """A study's mapping while it is read, the axes of numbers, and the problems so far."""

    root: Node
    path: Path
    problems: Problems = field(default_factory=lambda: Problems(what="study"))
    ranges: dict[str, Range] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)

    def problem(self, node: Node, path: str, message: str) -> None:
        self.problems.add(node, path, message)

    def typed(self, key: str, hint: Any, missing: str) -> Any:
        """Return the value of a key if it has the type; otherwise note the problem and return INVALID."""
        if key not in self.root.value:
            self.problem(self.root, "", f"`{key}` is missing; expected {missing}.")
            return INVALID
        return parse(self.root.value[key], hint, key, Scope(self.problems))

    def raise_any(self) -> None:
        self.problems.raise_any()


def load_study(path: Path, overrides: Sequence[str] = (), *, executors: Sequence[str] = ()) -> Study:
    """Read and check a study; `overrides` are added to its own, and `executors` override settings of executors.

    Raises: RecipeError with file, line and what was expected, for every problem.
    """
    if not is_file(path):
        near = nearest(path.name, beside(path, "*.yaml"))
        raise RecipeError(
            f"{shown_path(path)}: no such study. {near}Expected the path of a .yaml file, as "
            "recipes/ablations/condition.yaml."
        )
    reading = _Reading(read(path), path)
    if "axes" not in reading.root.value and {"model", "extends", "data"} & reading.root.value.keys():
        raise RecipeError(
            f"{shown_path(path)}: this is a recipe, and a study was expected. Train it with vqtk run "
            f"{shown_path(path)}; a study names it as its `base`."
        )
    plugins: list[Path] = []
    take_plugins(reading.root, path, plugins)
    _check_keys(reading)
    name = reading.typed("name", FolderName, "a name that a folder can have")
    seeding, seeds = _seeds(reading)
    base = _base(reading)
    given = [Node(one, "the command line") for one in overrides]
    own = _overrides(reading, reading.root.value.get("overrides"), "overrides")
    own += _overrides(reading, Node(given, "the command line"), "overrides")
    axes = _axes(reading)
    with loaded_plugins([*plugins, *_plugins(base, own)]):
        metrics = criteria_of(reading.root.value.get("metrics"), reading.problems)
    within = reading.typed("within", Positive, "") if "within" in reading.root.value else None
    equal = equal_of(reading.root.value.get("equal"), reading.problems)
    drawn = drawn_of(reading.root.value.get("cells"), reading.problems)
    _check_drawn(reading, drawn, seeding)
    clusters = _executors(reading, executors)
    reading.raise_any()
    names = {axis: list(values) for axis, values in axes.items()}
    baseline = baseline_of(reading.root, names, reading.problems)
    reading.raise_any()
    variants = variants_of(reading.root, names, baseline, reading.problems)
    if drawn and drawn.by == "random":
        variants = drawn_variants(drawn, axes, reading.ranges, baseline)
        if len(variants) <= drawn.count:
            reading.problem(reading.root.value["cells"], "cells", f"there are {len(variants) - 1} such variants only.")
    reading.raise_any()
    return Study(
        name, path, base, own, tuple(plugins), axes, reading.ranges, reading.scales, seeds, seeding, metrics, within,
        equal, baseline, variants, drawn, clusters,
    )  # fmt: skip


def _check_drawn(reading: _Reading, drawn: Drawn | None, seeding: Seeding | None) -> None:
    """Note what does not go with a design in which variants are drawn, or with one in which they are not."""
    root = reading.root.value
    for axis, numbers in reading.ranges.items():
        if numbers.n is None and not drawn:
            reading.problem(
                root["axes"].value[axis], below("axes", axis), "`n` is missing, as in {log: [1e-4, 1e-2], n: 5}. Only "
                "cells: {random: 20} and cells: {optuna: 20} draw from a whole range.",
            )  # fmt: skip
    if drawn and "exclude" in root:
        reading.problem(root["exclude"], "exclude", "this cannot be combined with variants that are drawn. Remove it.")
    if drawn and drawn.by == "optuna" and seeding:
        reading.problem(root["seeds"], "seeds", "optuna needs a list of seeds, as in [0, 1, 2].")


def _check_keys(reading: _Reading) -> None:
    for key, child in reading.root.value.items():
        if key not in KEYS:
            reading.problem(child, key, f"unknown key. {nearest(key, list(KEYS))}A study takes {', '.join(KEYS)}.")


def _executors(reading: _Reading, overrides: Sequence[str]) -> Any:
    node = reading.root.value.get("executors", Node({}, shown_path(reading.path)))
    for one in overrides:
        node = overridden(node, one)
    return parse(node, Executors, "executors", Scope(reading.problems))


def _seeds(reading: _Reading) -> tuple[Seeding | None, Any]:
    """Return how seeds are added, if they are, and the seeds of every variant at first."""
    given = reading.root.value.get("seeds")
    if given is not None and isinstance(given.value, dict):
        seeding = parse(given, Seeding, "seeds", Scope(reading.problems))
        if seeding is INVALID:
            return None, []
        if not LEAST <= seeding.start <= seeding.most <= MOST_VARIANTS or not 0 < seeding.until < inf:
            reading.problem(
                given, "seeds", f"expected at least {LEAST} seeds to `start` with, no fewer at `most`, and `until` "
                "more than 0, as in {start: 5, most: 20, until: 0.01}.",
            )  # fmt: skip
        return seeding, list(range(min(seeding.start, MOST_VARIANTS)))
    if given is not None and given.value in ([], None):
        reading.problem(given, "seeds", "the list is empty; expected at least one whole number, as in [0, 1, 2].")
        return None, []
    seeds = reading.typed("seeds", Annotated[list[Whole], Len(1)], "a list of whole numbers, as in [0, 1, 2]")
    if seeds is not INVALID:
        for index, seed in enumerate(seeds):  # At most MOST_LISTED of them.
            if seed in seeds[:index]:
                node = reading.root.value["seeds"].value[index]
                reading.problem(
                    node, "seeds", f"the seed {seed} is listed twice: its runs would be the same. Remove one."
                )
    return None, seeds


def _base(reading: _Reading) -> Path:
    base = reading.typed("base", str, "the path of a recipe, relative to this file")
    if base is INVALID:
        return reading.path
    return _recipe(reading, reading.root.value["base"], "base")


def _plugins(base: Path, overrides: tuple[str, ...]) -> list[Path]:
    """Return the plugins of the base, which may have metrics; none if it cannot be read, which `plan` reports."""
    try:
        return [plugin.path for plugin in load_recipe(base, overrides).plugins]
    except VqtkError:
        return []


def _recipe(reading: _Reading, node: Node, place: str) -> Path:
    """Return the path of the recipe that a node names, relative to the study; note a problem if it is missing."""
    path = reading.path.parent / str(node.value)
    if not isinstance(node.value, str) or not is_file(path):
        near = nearest(path.name, beside(path, "*.yaml"))
        reading.problem(
            node, place, f"there is no file {shortened(shown_path(path), most=200)}. {near}"
            "Expected the path of a recipe, relative to this file.",
        )  # fmt: skip
    return path


def _axes(reading: _Reading) -> Axes:
    node = reading.root.value.get("axes")
    if node is None or not isinstance(node.value, dict) or not node.value:
        reading.problem(
            node or reading.root, "" if node is None else "axes",
            f"{'`axes` is missing; ' if node is None else ''}expected a mapping from axes to their values, as in "
            'axes: {condition: {scale: [], film: ["model.condition=film"]}}.',
        )  # fmt: skip
        return {}
    return {axis: _values(reading, axis, child, below("axes", axis)) for axis, child in node.value.items()}


def _values(reading: _Reading, axis: str, node: Node, place: str) -> dict[str, Value]:
    if isinstance(node.value, list) or is_range(node):
        if axis in DECIDED:
            reading.problem(node, place, f"{axis!r} is not for a variant to set: {DECIDED[axis]} decides it.")
        return (
            _listed(reading, axis, node, place) if isinstance(node.value, list) else _range(reading, axis, node, place)
        )
    if not isinstance(node.value, dict) or not node.value:
        reading.problem(
            node, place, "this axis has no values; expected a mapping from their names to overrides, as in "
            '{scale: [], film: ["model.condition=film"]}.',
        )  # fmt: skip
        return {}
    for name, child in node.value.items():
        if not _VALUE_NAME.fullmatch(name):
            reading.problem(
                child, below(place, name), "expected a name of letters, digits, `_`, `-` and `.`: it names a folder."
            )
    return {name: _value(reading, child, below(place, name)) for name, child in node.value.items()}


def _listed(reading: _Reading, axis: str, node: Node, place: str) -> dict[str, Value]:
    """Return the values of an axis that is the path of a setting, from a list of them."""
    found: dict[str, Value] = {}
    for index, child in enumerate(node.value):
        given = child.value
        plain = isinstance(given, (int, float, bool)) or (isinstance(given, str) and _VALUE_NAME.fullmatch(given))
        name = given if isinstance(given, str) else number_name(axis, child.plain())
        if not plain or name in found:
            reading.problem(
                child, f"{place}.{index}", f"{child.plain()!r} is listed twice. Remove one." if plain else
                "expected a number, a word, true or false. Give other values names, as in {scale: [], film: "
                '["model.condition=film"]}.',
            )  # fmt: skip
            continue
        found[name] = Value((f"{axis}={inline(child)}",), None, f"{child.origin}: {place}")
    numbers = [child.value for child in node.value if type(child.value) in (int, float)]
    if numbers and len(numbers) == len(node.value):
        reading.scales[axis] = "log" if 0 < 10 * min(numbers) <= max(numbers) else "linear"
    if not node.value:
        reading.problem(node, place, "this axis has no values; expected a list of them, as in [1e-4, 1e-3].")
    return found


def _range(reading: _Reading, axis: str, node: Node, place: str) -> dict[str, Value]:
    """Return the values of an axis that is the path of a setting, from a range of numbers; BASE if all may be drawn."""
    numbers, where = range_of(node, place, reading.problems), f"{node.origin}: {place}"
    if numbers is None:
        return {BASE: Value((), None, where)}
    reading.ranges[axis], reading.scales[axis] = numbers, numbers.scale
    if numbers.n is None:
        return {BASE: Value((), None, where)}
    axes: Axes = {axis: {}}
    for number in numbers.numbers():
        add_number(axes, axis, number, where)
    return axes[axis]


def _value(reading: _Reading, node: Node, place: str) -> Value:
    where = f"{node.origin}: {place}"
    if isinstance(node.value, dict) and set(node.value) == {"recipe"}:
        return Value((), _recipe(reading, node.value["recipe"], f"{place}.recipe"), where)
    return Value(_overrides(reading, node, place), None, where)


def _overrides(reading: _Reading, node: Node | None, place: str) -> tuple[str, ...]:
    if node is None:
        return ()
    children = node.value if isinstance(node.value, list) else [node]
    if isinstance(node.value, dict) or not all(isinstance(child.value, str) for child in children):
        reading.problem(
            node, place, 'expected a list of overrides, as in ["model.condition=film"], or {recipe: other.yaml}. '
            "An override is text: put quotes around one with a colon in it.",
        )  # fmt: skip
        return ()
    for child in children:
        path = str(child.value).partition("=")[0].strip()
        if path in DECIDED:
            reading.problem(child, place, f"{path!r} is not for a variant to set: {DECIDED[path]} decides it.")
    return tuple(word(child) or "" for child in children)
