"""The runs of a study: each variant at each seed, resolved, checked, and given a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vqtk.compare.metrics import is_in_loss_units
from vqtk.compare.variants import units_of
from vqtk.errors import CheckpointError, RecipeError
from vqtk.files import write_text
from vqtk.io.run_files import StudyFile, read_file
from vqtk.metrics import COMPARABLE, metric_class
from vqtk.plugin.loading import loaded_plugins
from vqtk.recipe.build import build_dataset
from vqtk.recipe.node import shown_path
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.recipe.show import changes
from vqtk.runs.budget import Equal, updates_of
from vqtk.runs.directory import RunDirectory
from vqtk.study.design import Choices, Value, name_of
from vqtk.study.state import SETTLED, State, read_state, write_state
from vqtk.study.study import Study
from vqtk.study.worker import is_measured, write_limits

CostMeasure = Callable[[Recipe], float]
"""Returns the seconds of an update."""


@dataclass(frozen=True)
class PlannedVariant:
    """A variant: a value on each axis, and the recipe that results.

    Arguments:
        name: the values, joined.
        choices: the value on each axis.
        recipe: at the first seed.
        digest: `digest_of` the recipe.
        untimed: `digest_of` the recipe before the study's terms set how long it trains.
        source: the recipe's file.
        overrides: of that file, all but the seed.
        plugins: the study's.
    """

    name: str
    choices: Choices
    recipe: Recipe
    digest: str
    untimed: str
    source: Path
    overrides: tuple[str, ...]
    plugins: tuple[Path, ...]

    def at(self, seed: int) -> Recipe:
        """Return the recipe at a seed."""
        return load_recipe(self.source, [*self.overrides, f"seed={seed}"], plugins=self.plugins)


@dataclass(frozen=True)
class PlannedRun:
    """A variant at a seed."""

    variant: PlannedVariant
    seed: int

    @property
    def path(self) -> Path:
        """Its directory, relative to the study's."""
        return Path(f"{self.variant.name}-{self.variant.digest[:8]}") / f"seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study's variants.

    Arguments:
        study: the study.
        equal: its budget.
        variants: the baseline is among them.
        measured: the updates found for terms of time, by `PlannedVariant.untimed`.
        seeds: of the variants, by name, that have others than the study's.
        limits: what ends hopeless runs of the newest variants: by seed, the metric at each update.
        newest: the names of these variants.
    """

    study: Study
    equal: Equal
    variants: list[PlannedVariant]
    measured: dict[str, int]
    seeds: dict[str, list[int]] = field(default_factory=dict)
    limits: dict[int, dict[int, float]] = field(default_factory=dict)
    newest: frozenset[str] = frozenset()

    def runs(self) -> list[PlannedRun]:
        """Return the runs in the order of training: all variants at one seed, then at the next."""
        having = {variant.name: self.seeds.get(variant.name, self.study.seeds) for variant in self.variants}
        every = dict.fromkeys([*self.study.seeds, *sorted({seed for seeds in having.values() for seed in seeds})])
        return [PlannedRun(one, seed) for seed in every for one in self.variants if seed in having[one.name]]


def plan(study: Study, folder: Path, measure: CostMeasure) -> Plan:
    """Return the plan of a study. Updates that were measured before are read from the study's folder.

    Raises: RecipeError if a variant cannot be resolved, or if two are the same.
    """
    base = load_recipe(study.base, study.overrides, plugins=study.plugins)
    equal = study.equal or Equal("updates", base.train.updates)
    known = _measured_before(folder, equal)
    variants, measured = [], {}
    for choices in study.variants:
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
    """Return the SHA-256 of a recipe without its seed and name, and of its plugins if it has any."""
    plugins = sorted(plugin.sha256 for plugin in recipe.plugins)
    text = json.dumps(recipe.of_variant(), sort_keys=True) + "".join(plugins)
    return hashlib.sha256(text.encode()).hexdigest()


def _values(study: Study, choices: Choices) -> list[Value]:
    return [study.axes[axis][value] for axis, value in choices.items()]


def _made_of(study: Study, choices: Choices) -> tuple[Path, tuple[str, ...]]:
    """Return the file of a variant's recipe, and all overrides of it."""
    values = _values(study, choices)
    recipes = [value for value in values if value.recipe]
    if len(recipes) > 1:
        raise RecipeError(
            f"{recipes[1].where}: {name_of(choices)!r} would have two recipes, as {recipes[0].where} names one, too. "
            "Let only one axis name recipes, or take these variants out with `exclude`."
        )
    source = recipes[0].recipe if recipes else study.base
    assert source
    name = f"name={json.dumps(name_of(choices))}"
    return source, (*study.overrides, *(one for value in values for one in value.overrides), name)


def _resolved(study: Study, choices: Choices, more: tuple[str, ...]) -> Recipe:
    source, overrides = _made_of(study, choices)
    try:
        return load_recipe(source, [*overrides, f"seed={study.seeds[0]}", *more], plugins=study.plugins)
    except RecipeError as error:
        values = _values(study, choices)
        named = [value for value in values if any(repr(override) in str(error) for override in value.overrides)]
        where = named[0].where if named else f"{shown_path(study.path)}: {name_of(choices)}"
        raise RecipeError(f"{where}: {error}") from None


def _variant(study: Study, choices: Choices, untimed: Recipe, updates: int) -> PlannedVariant:
    source, overrides = _made_of(study, choices)
    timed = f"train.updates={updates}"
    recipe = _resolved(study, choices, (timed,))
    given = (source, (*overrides, timed), study.plugins)
    return PlannedVariant(name_of(choices), choices, recipe, digest_of(recipe), digest_of(untimed), *given)


def _check_distinct(study: Study, variants: list[PlannedVariant]) -> None:
    seen: dict[str, PlannedVariant] = {}
    for variant in variants:
        other = seen.setdefault(variant.digest, variant)
        if other is not variant:
            differing = [axis for axis, value in variant.choices.items() if other.choices[axis] != value]
            where = study.axes[differing[-1]][variant.choices[differing[-1]]].where
            raise RecipeError(
                f"{where}: the variants {other.name!r} and {variant.name!r} have the same recipe, so their runs "
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
    """Raise RecipeError if a metric is for another kind of data."""
    for variant in variants:
        data = build_dataset(variant.recipe).spec
        with loaded_plugins([plugin.path for plugin in variant.recipe.plugins]):
            for metric in study.metrics:
                known = metric_class(metric.name)
                if known and known.kinds and data.kind not in known.kinds:
                    raise RecipeError(
                        f"{shown_path(study.path)}: metrics: {metric.name} is a metric of {' or '.join(known.kinds)} "
                        f"data, and the data of {variant.name!r} are {data.kind}. Name another metric, or take data of "
                        "that kind."
                    )


def _check_data(study: Study, variants: list[PlannedVariant]) -> None:
    """Raise RecipeError if variants have different data, which no metric compares.

    Batch sizes and augmentations may differ, since they do not change the examples to test on.
    """
    ways = ("batch", "augment")
    first, *others = (
        {"data": {key: value for key, value in variant.recipe.plain()["data"].items() if key not in ways}}
        for variant in variants
    )
    for variant, data in zip(variants[1:], others, strict=True):
        for change in changes(first, data):
            raise RecipeError(
                f"{shown_path(study.path)}: the variants have different data: {change.path} is {change.baseline} in "
                f"{variants[0].name!r} and {change.variant} in {variant.name!r}. Runs that are tested on different "
                "examples cannot be compared. Let all variants have the same `data`, or make a study of each."
            )


def _check_units(study: Study, variants: list[PlannedVariant]) -> None:
    """Raise RecipeError if a metric is in units of the loss, and the variants' losses differ."""
    names: dict[str, str] = {}
    for variant in variants:
        names.setdefault(units_of(variant.recipe), variant.name)
    named = [metric.name for metric in study.metrics if is_in_loss_units(metric.name)]
    if len(names) < 2 or not named:
        return
    listed = "; ".join(f"{units} ({name})" for units, name in names.items())
    shared = ", ".join(COMPARABLE.get(build_dataset(variants[0].recipe).spec.kind, ()))
    advice = f"Name metrics that all of them share: metrics: [{shared}]." if shared else "Compare variants of one loss."
    raise RecipeError(
        f"{shown_path(study.path)}: metrics: {', '.join(named)}: the variants' losses differ: {listed}. A metric in "
        f"units of the loss cannot rank them. {advice}"
    )


# ── on disk ──────────────────────────────────────────────────────────────────────────────────────


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `study.json`, and for each new run a directory with its recipe and the state `waiting`.

    Raises: VqtkError if they cannot be written.
    """
    for run in plan.runs():
        path = folder / run.path
        if not (path / "recipe.yaml").is_file():
            RunDirectory.create_at(path, run.variant.at(run.seed))
            write_state(path, State())
        if run.variant.name in plan.newest and run.seed in plan.limits:
            write_limits(path, plan.study.metrics[0], plan.limits[run.seed])
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
            "said": plan.equal.sentence(),
            **({"measured": plan.measured} if plan.measured else {}),
        },
        "axes": {axis: list(values) for axis, values in study.axes.items()},
        "numeric": study.scales,
        "within": study.within,
        "seeding": asdict(study.seeding) if study.seeding else None,
        "drawn": asdict(study.drawn) if study.drawn else None,
        "cells": [
            {
                "variant": run.variant.name,
                "choices": run.variant.choices,
                "seed": run.seed,
                "path": run.path.as_posix(),
                "recipe_sha256": run.variant.digest,
                "updates": run.variant.recipe.train.updates,
                "examples": run.variant.recipe.examples_per_update,
            }
            for run in plan.runs()
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
        raise CheckpointError(f"{path}: the study's file is damaged. Remove it to measure its time again.") from None


def to_run(plan: Plan, folder: Path, *, retry: bool) -> list[PlannedRun]:
    """Return the runs that are not done, or lack a metric of the study; failed ones only with `retry`."""
    settled = {*SETTLED} - ({"failed"} if retry else set())
    metrics = [metric.name for metric in plan.study.metrics]

    def is_left(path: Path) -> bool:
        state = read_state(path).state
        return state not in settled or (state == "done" and not is_measured(path, metrics))

    return [run for run in plan.runs() if is_left(folder / run.path)]
