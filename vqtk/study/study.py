"""A study: which variants of a recipe are trained, from which seeds, on what equal terms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len

from vqtk.compare.metrics import Criterion, criteria_of
from vqtk.errors import RecipeError, VqtkError, nearest, shortened
from vqtk.nn.types import Whole
from vqtk.plugin.loading import loaded_plugins
from vqtk.recipe.node import Node, Problems, below, beside, is_file, read, shown_path
from vqtk.recipe.recipe import FolderName, load_recipe
from vqtk.recipe.schema import INVALID, Scope, parse
from vqtk.study.design import Choices, Equal, baseline_of, equal_of, variants_of, word

KEYS = ("name", "base", "overrides", "axes", "seeds", "baseline", "metrics", "equal", "cells", "exclude")
DECIDED = {"seed": "`seeds`", "name": "the names of the axes' values", "train.updates": "`equal`"}
"""What the study itself decides, and where."""
_VALUE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Value:
    """A value of an axis: overrides, or a recipe that replaces the base; and its place in the study's file."""

    overrides: tuple[str, ...]
    recipe: Path | None
    where: str


Axes = dict[str, dict[str, Value]]


@dataclass(frozen=True)
class Study:
    """A checked study. `variants` holds the value of each on every axis; `overrides` apply to all of them.

    `equal` is None if every run trains for as many updates as the base.
    """

    name: str
    path: Path
    base: Path
    overrides: tuple[str, ...]
    axes: Axes
    seeds: list[int]
    metrics: list[Criterion]
    equal: Equal | None
    baseline: Choices
    variants: list[Choices]


@dataclass
class _Reading:
    """A study's mapping while it is read, and the problems so far."""

    root: Node
    path: Path
    problems: Problems = field(default_factory=lambda: Problems(what="study"))

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


def load_study(path: Path) -> Study:
    """Read and check a study. Raises: RecipeError with file, line and what was expected, for every problem."""
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
    _check_keys(reading)
    name = reading.typed("name", FolderName, "a name that a folder can have")
    seeds = _seeds(reading)
    base = _base(reading)
    overrides = _overrides(reading, reading.root.value.get("overrides"), "overrides")
    axes = _axes(reading)
    with loaded_plugins(_plugins(base, overrides)):
        metrics = criteria_of(reading.root.value.get("metrics"), reading.problems)
    equal = equal_of(reading.root.value.get("equal"), reading.problems)
    reading.raise_any()
    names = {axis: list(values) for axis, values in axes.items()}
    baseline = baseline_of(reading.root, names, reading.problems)
    reading.raise_any()
    variants = variants_of(reading.root, names, baseline, reading.problems)
    reading.raise_any()
    return Study(name, path, base, overrides, axes, seeds, metrics, equal, baseline, variants)


def _check_keys(reading: _Reading) -> None:
    for key, child in reading.root.value.items():
        if key not in KEYS:
            reading.problem(child, key, f"unknown key. {nearest(key, list(KEYS))}A study takes {', '.join(KEYS)}.")


def _seeds(reading: _Reading) -> Any:
    given = reading.root.value.get("seeds")
    if given is not None and given.value in ([], None):
        reading.problem(given, "seeds", "the list is empty; expected at least one whole number, as in [0, 1, 2].")
        return []
    seeds = reading.typed("seeds", Annotated[list[Whole], Len(1)], "a list of whole numbers, as in [0, 1, 2]")
    if seeds is not INVALID:
        for index, seed in enumerate(seeds):  # At most MOST_LISTED of them.
            if seed in seeds[:index]:
                node = reading.root.value["seeds"].value[index]
                reading.problem(
                    node, "seeds", f"the seed {seed} is listed twice: its runs would be the same. Remove one."
                )
    return seeds


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
    return {axis: _values(reading, child, below("axes", axis)) for axis, child in node.value.items()}


def _values(reading: _Reading, node: Node, place: str) -> dict[str, Value]:
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
