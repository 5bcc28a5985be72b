"""The cells of a study: each variant at each seed, resolved, tried out, and given a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtk.compare.metrics import SAMPLES, SHARED, is_of_the_loss
from vqtk.compare.variants import changes, units_of
from vqtk.errors import CheckpointError, RecipeError, VqtkError
from vqtk.files import write_text
from vqtk.io.run_files import StudyFile, read_file
from vqtk.recipe.build import Validation, build_dataset, fingerprint, validate
from vqtk.recipe.node import shown_path
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.study.design import Choices, name_of
from vqtk.study.equal import Equal, updates_of
from vqtk.study.protocol import State, read_state, write_state
from vqtk.study.study import Study, Value
from vqtk.study.worker import is_measured, wants_samples

CostMeasure = Callable[[Recipe], float]
"""Returns the seconds of an update."""


@dataclass(frozen=True)
class PlannedVariant:
    """One choice a axis: the recipe that it comes to, at the first seed, and what makes it at another.

    `digest` is the SHA-256 of the recipe without seed and name, and of its plugins; `untimed` is that of the same
    recipe before the study's terms said for how long it trains.
    """

    name: str
    choices: Choices
    recipe: Recipe
    digest: str
    untimed: str
    source: Path
    overrides: tuple[str, ...]

    def at(self, seed: int) -> Recipe:
        """Return the recipe at a seed."""
        return load_recipe(self.source, [*self.overrides, f"seed={seed}"])


@dataclass(frozen=True)
class PlannedRun:
    """A variant at a seed; `path` is its directory, relative to the study's."""

    variant: PlannedVariant
    seed: int

    @property
    def path(self) -> Path:
        """Return the cell's directory, relative to the study's."""
        return Path(f"{self.variant.name}-{self.variant.digest[:8]}") / f"seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study's variants and cells. `measured` are the updates that were found for terms of time, by `untimed`."""

    study: Study
    equal: Equal
    variants: list[PlannedVariant]
    measured: dict[str, int]

    def cells(self) -> list[PlannedRun]:
        """Return the cells in the order that they are run in: all variants at one seed, then at the next."""
        return [PlannedRun(variant, seed) for seed in self.study.seeds for variant in self.variants]


def plan(study: Study, folder: Path, measure: CostMeasure) -> Plan:
    """Return the plan of a study; updates that were measured before stand in the study's folder, and are kept.

    Raises: RecipeError if a variant cannot be resolved, or if two are the same.
    """
    base = load_recipe(study.base, study.overrides)
    equal = study.equal or Equal("updates", base.train.updates)
    known = _measured_before(folder, equal)
    variants, measured = [], {}
    for choices in study.cells:
        untimed = _resolved(study, choices, ())
        if equal.by == "time":
            digest = digest_of(untimed)
            measured[digest] = known.get(digest) or updates_of(equal, untimed, step=measure(untimed))
            updates = measured[digest]
        else:
            updates = updates_of(equal, untimed)
        variants.append(_variant(study, choices, untimed, updates))
    _check_distinct(study, variants)
    _check_stages(study, variants)
    _check_kinds(study, variants)
    _check_data(study, variants)
    _check_units(study, variants)
    return Plan(study, equal, variants, measured)


def digest_of(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe without its seed and name, and of its plugins where it has any."""
    plain = {key: value for key, value in recipe.plain().items() if key not in ("seed", "name")}
    plugins = sorted(plugin.sha256 for plugin in recipe.plugins)
    said = json.dumps(plain, sort_keys=True) + "".join(plugins)
    return hashlib.sha256(said.encode()).hexdigest()


def _values(study: Study, choices: Choices) -> list[Value]:
    return [study.axes[axis][value] for axis, value in choices.items()]


def _made_of(study: Study, choices: Choices) -> tuple[Path, tuple[str, ...]]:
    """Return the recipe that a variant begins with, and all overrides of it."""
    values = _values(study, choices)
    recipes = [value for value in values if value.recipe]
    if len(recipes) > 1:
        raise RecipeError(
            f"{recipes[1].where}: {name_of(choices)!r} would be of two recipes, for {recipes[0].where} names one, too. "
            "Let one axis alone name recipes, or take these cells out with `exclude`."
        )
    source = recipes[0].recipe if recipes else study.base
    assert source
    name = f"name={json.dumps(name_of(choices))}"
    return source, (*study.overrides, *(one for value in values for one in value.overrides), name)


def _resolved(study: Study, choices: Choices, more: tuple[str, ...]) -> Recipe:
    source, overrides = _made_of(study, choices)
    try:
        return load_recipe(source, [*overrides, f"seed={study.seeds[0]}", *more])
    except RecipeError as error:
        values = _values(study, choices)
        named = [value for value in values if any(repr(override) in str(error) for override in value.overrides)]
        where = named[0].where if named else f"{shown_path(study.path)}: {name_of(choices)}"
        raise RecipeError(f"{where}: {error}") from None


def _variant(study: Study, choices: Choices, untimed: Recipe, updates: int) -> PlannedVariant:
    source, overrides = _made_of(study, choices)
    timed = f"train.updates={updates}"
    recipe = _resolved(study, choices, (timed,))
    return PlannedVariant(
        name_of(choices), choices, recipe, digest_of(recipe), digest_of(untimed), source, (*overrides, timed)
    )


def _check_distinct(study: Study, variants: list[PlannedVariant]) -> None:
    seen: dict[str, PlannedVariant] = {}
    for variant in variants:
        other = seen.setdefault(variant.digest, variant)
        if other is not variant:
            differing = [axis for axis, value in variant.choices.items() if other.choices[axis] != value]
            where = study.axes[differing[-1]][variant.choices[differing[-1]]].where
            raise RecipeError(
                f"{where}: the variants {other.name!r} and {variant.name!r} come to the same recipe, so their runs "
                "would be the same. Remove one, or check what it overrides."
            )


def _check_stages(study: Study, variants: list[PlannedVariant]) -> None:
    for metric in study.metrics:
        few = [one for one in variants if metric.stage and metric.stage > one.recipe.model.settings.get("stages", 1e9)]
        if few:
            raise RecipeError(
                f"{shown_path(study.path)}: metrics: {metric.name} is of stage {metric.stage}, and {few[0].name!r} has "
                f"{few[0].recipe.model.settings['stages']}. Name a stage that every variant has."
            )


def _check_kinds(study: Study, variants: list[PlannedVariant]) -> None:
    """Raise RecipeError if a metric is one of another kind of data."""
    for metric in study.metrics:
        kinds = [kind for kind, names in SHARED.items() if metric.name in names]
        wanted = ["image"] if metric.name in SAMPLES else kinds
        for variant in variants if wanted else ():
            kind = build_dataset(variant.recipe).spec.kind
            if kind not in wanted:
                what = "a distance between images" if metric.name in SAMPLES else f"measured of {wanted[0]} data"
                raise RecipeError(
                    f"{shown_path(study.path)}: metrics: {metric.name} is {what}, and the data of {variant.name!r} are "
                    f"{kind}. Name another metric, or take data of that kind."
                )


def _check_data(study: Study, variants: list[PlannedVariant]) -> None:
    """Raise RecipeError if variants are of different data, which no metric compares; a batch may be of any size."""
    first, *others = (
        {"data": {key: value for key, value in variant.recipe.plain()["data"].items() if key != "batch"}}
        for variant in variants
    )
    for variant, data in zip(variants[1:], others, strict=True):
        for row in changes(first, data):
            raise RecipeError(
                f"{shown_path(study.path)}: the variants are of different data: {row['path']} is {row['baseline']} in "
                f"{variants[0].name!r} and {row['variant']} in {variant.name!r}. What is tested on different items "
                "cannot be compared. Let all variants have the same `data`, or make a study of each."
            )


def _check_units(study: Study, variants: list[PlannedVariant]) -> None:
    """Raise RecipeError if a metric is in units of the loss, and the variants' losses differ."""
    said: dict[str, str] = {}
    for variant in variants:
        said.setdefault(units_of(variant.recipe), variant.name)
    named = [metric.name for metric in study.metrics if is_of_the_loss(metric.name)]
    if len(said) < 2 or not named:
        return
    listed = "; ".join(f"{units} ({name})" for units, name in said.items())
    shared = ", ".join(SHARED[build_dataset(variants[0].recipe).spec.kind])
    raise RecipeError(
        f"{shown_path(study.path)}: metrics: {', '.join(named)}: the variants' losses differ: {listed}. A metric in "
        f"units of the loss says nothing of which of them is better. Name metrics that all share: metrics: [{shared}]."
    )


# ── on disk ──────────────────────────────────────────────────────────────────────────────────────


def try_out(plan: Plan) -> Iterator[tuple[PlannedVariant, Validation, list[str]]]:
    """Build each variant on the CPU and try it; yield it with warnings of an earlier one whose model is the same.

    Raises: RecipeError, with the variant, if one cannot be trained.
    """
    seen: dict[str, PlannedVariant] = {}
    for variant in plan.variants:
        where = f"{shown_path(plan.study.path)}: the variant {variant.name!r}"
        try:
            tried = validate(variant.recipe)
            other = seen.setdefault(fingerprint(variant.recipe), variant)
        except VqtkError as error:
            raise RecipeError(f"{where}: {error}") from None
        same = other is not variant and other.recipe.plain()["model"] != variant.recipe.plain()["model"]
        told = f"{where} says another model than {other.name!r} does, but it is the same one: is its setting used?"
        yield variant, tried, [told] if same else []


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `study.json`, and for each cell that is new a run directory with its recipe, waiting to be run.

    Raises: VqtkError if they cannot be written.
    """
    for cell in plan.cells():
        path = folder / cell.path
        if not (path / "recipe.yaml").is_file():
            RunDirectory.create_at(path, cell.variant.at(cell.seed))
            write_state(path, State())
    write_text(folder / "study.json", json.dumps(_described(plan), indent=2, ensure_ascii=False) + "\n")


def _described(plan: Plan) -> dict[str, Any]:
    study = plan.study
    return {
        "name": study.name,
        "baseline": name_of(study.baseline),
        "metrics": [metric.plain() for metric in study.metrics],
        "terms": {
            "equal": plan.equal.by,
            "value": plan.equal.value,
            "said": plan.equal.said(),
            **({"measured": plan.measured} if plan.measured else {}),
        },
        "axes": {axis: list(values) for axis, values in study.axes.items()},
        "cells": [
            {
                "variant": cell.variant.name,
                "choices": cell.variant.choices,
                "seed": cell.seed,
                "path": cell.path.as_posix(),
                "recipe_sha256": cell.variant.digest,
            }
            for cell in plan.cells()
        ],
    }


def _measured_before(folder: Path, equal: Equal) -> dict[str, int]:
    """Return the updates that were measured for the same terms before. Raises: CheckpointError if they are damaged."""
    path = folder / "study.json"
    if equal.by != "time" or not path.is_file():
        return {}
    try:
        terms = read_file(path, StudyFile)["terms"]
        same = (terms["equal"], terms["value"]) == (equal.by, equal.value)
        return dict(terms["measured"]) if same else {}
    except (CheckpointError, KeyError):
        raise CheckpointError(f"{path}: the study's file is damaged. Remove it to measure its time anew.") from None


def to_run(plan: Plan, folder: Path, *, retry: bool) -> list[PlannedRun]:
    """Return the cells that are still to run, or of whose samples nothing is known; failed ones only with `retry`."""
    settled = {"done"} if retry else {"done", "failed"}
    samples = wants_samples(metric.name for metric in plan.study.metrics)

    def is_left(path: Path) -> bool:
        state = read_state(path).state
        return state not in settled or (state == "done" and samples and not is_measured(path))

    return [cell for cell in plan.cells() if is_left(folder / cell.path)]
