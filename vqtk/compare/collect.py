"""Finds the runs to compare, and groups them into variants."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from vqtk.errors import CheckpointError, VqtkError
from vqtk.io.run_files import CellFile, SearchedFile, StudyFile, read_file, read_metrics
from vqtk.io.weights import shipped
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.show import changes, last_key, shown_at
from vqtk.runs.directory import RunDirectory

STUDY = "study.json"
_LONGEST_NAME = 60
"""The most characters of a name that lists settings."""
PRUNED = "pruned: "
"""How the reason begins for which a run that was ended early, or another seed of its variant, is left out."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its recipe, and what it wrote."""

    path: Path
    recipe: Recipe
    manifest: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]


@dataclass
class Variant:
    """Runs, by seed, whose recipes differ in nothing else that changes a result.

    `choices` is the variant's value on each axis of a study.
    """

    name: str
    choices: dict[str, str]
    runs: dict[int, FinishedRun] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe of its first run."""
        return next(iter(self.runs.values())).recipe


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Collected:
    """Variants to compare, in the order given. `study` is the content of study.json if a single study was given."""

    variants: list[Variant]
    left_out: list[LeftOut]
    study: dict[str, Any] | None = None

    @property
    def runs(self) -> list[FinishedRun]:
        """The runs of all variants."""
        return [run for variant in self.variants for run in variant.runs.values()]


@dataclass(frozen=True)
class _Place:
    """Where a run should be. A study names the `variant` of each of its runs: the study's directory and a name."""

    path: Path
    variant: tuple[Path, str] | None = None
    choices: dict[str, str] = field(default_factory=dict)


def collect(paths: Sequence[Path]) -> Collected:
    """Group the finished runs of run directories, folders of runs and studies into variants.

    study.json names the variant of each run of a study. Other runs form one variant if their recipes differ in nothing
    that changes a result (`Recipe.of_consequence`).

    Raises: CheckpointError if a path is none of these, VqtkError if there is no finished run.
    """
    groups: dict[object, Variant] = {}
    left_out: list[LeftOut] = []
    pruned: set[object] = set()
    for place in _places(paths):
        try:
            run = _read(place.path)
        except VqtkError as error:
            left_out.append(LeftOut(place.path, str(error)))
            if str(error).startswith(PRUNED):
                pruned.add(place.variant)
            continue
        key = place.variant or _identity(run)
        name = place.variant[1] if place.variant else run.recipe.name
        variant = groups.setdefault(key, Variant(name, place.choices))
        other = variant.runs.setdefault(run.recipe.seed, run)
        if other is not run:
            left_out.append(LeftOut(run.path, f"{other.path} is a run of the same variant with the same seed."))
    for variant_of in pruned & groups.keys():  # The seeds that were not pruned are the better ones.
        others = groups.pop(variant_of).runs.values()
        left_out += [LeftOut(run.path, f"{PRUNED}another run of its variant was.") for run in others]
    if not groups:
        first = f" The first: {left_out[0].path}: {left_out[0].why}" if left_out else ""
        raise VqtkError(f"{', '.join(map(str, paths))}: there is no finished run to compare.{first}")
    studies = [study for path in paths for study in _studies(path)]
    alone = len(studies) == 1 and all(isinstance(key, tuple) for key in groups)
    study = read_study(studies[0]) if alone else None
    return Collected(_named(list(groups.values())), left_out, study)


def without_diverged(collected: Collected) -> Collected:
    """Leave out the runs whose final loss is not finite, since no mean can include it, and list them.

    Raises: VqtkError if no run is left.
    """
    left_out = [*collected.left_out]
    for variant in collected.variants:
        for run in list(variant.runs.values()):
            final = run.summary["test"].get("final")
            if isinstance(final, float) and not isfinite(final):
                del variant.runs[run.recipe.seed]
                left_out.append(LeftOut(run.path, f"diverged: its final loss on the test examples is {final}."))
    variants = [variant for variant in collected.variants if variant.runs]
    if not variants:
        raise VqtkError(f"every run to compare diverged. The first: {left_out[0].path}.")
    return Collected(variants, left_out, collected.study)


def encoded_by(collected: Collected, search: str) -> Collected:
    """Replace the greedy results of every run by those of a search, which `vqtk eval` wrote into the run.

    Raises: VqtkError with the commands to run, if results by this search are missing.
    """
    missing = []
    for run in collected.runs:
        found = read_file(run.path / "eval.json", SearchedFile) if (run.path / "eval.json").is_file() else {}
        if found.get("search") != search or found.get("is_subset") or found.get("updates") != run.summary["updates"]:
            missing.append(run.path)
            continue
        summary = {**run.summary, "test": {**run.summary["test"], **found["test"]}, "stages": found["stages"]}
        variant = next(one for one in collected.variants if one.runs.get(run.recipe.seed) is run)
        variant.runs[run.recipe.seed] = replace(run, summary=summary)
    if missing:
        commands = "\n".join(f"  vqtk eval {path} --search {shlex.quote(search)}" for path in missing)
        raise VqtkError(
            f"--search {search}: {len(missing)} of {len(collected.runs)} runs were not evaluated by this search on the "
            f"whole test split. Run:\n{commands}"
        )
    return collected


def with_evaluated(collected: Collected, metrics: Sequence[str]) -> Collected:
    """Add the metrics that runs lack and that `vqtk eval --metric` measured, on greedy codes of the whole test split.

    Raises: CheckpointError if the results of a run that lacks one are damaged.
    """
    for variant in collected.variants:
        for seed, run in variant.runs.items():
            lacking = [name for name in metrics if name not in run.summary["test"]]
            if not lacking or not (run.path / "eval.json").is_file():
                continue
            found = read_file(run.path / "eval.json", SearchedFile)
            if not _why_unlike(run, found):
                also = {name: found["test"][name] for name in lacking if name in found["test"]}
                variant.runs[seed] = replace(run, summary={**run.summary, "test": {**run.summary["test"], **also}})
    return collected


def how_to_measure(metric: str, runs: Sequence[FinishedRun]) -> str:
    """Return the commands that measure a metric of runs as `with_evaluated` takes it, and why it took none before."""
    found = [(run, read_file(run.path / "eval.json", SearchedFile)) for run in runs
             if (run.path / "eval.json").is_file()]  # fmt: skip
    unlike = [f"{run.path / 'eval.json'} has it {why}, so it is not compared. " for run, results in found
              if metric in results["test"] and (why := _why_unlike(run, results))]  # fmt: skip
    commands = [f"  vqtk eval {run.path} --metric {metric}{'' if _is_greedy(run.recipe) else ' --search greedy'}"
                for run in runs]  # fmt: skip
    lines = "\n".join(commands)
    otherwise = f"New runs measure it, on the examples of their other metrics, with train.metrics=[{metric}]."
    return (
        f"{unlike[0] if unlike else ''}Measure each run that lacks it, on its whole test split:\n{lines}\n{otherwise}\n"
    )


def _why_unlike(run: FinishedRun, found: dict[str, Any]) -> str:
    """Return how the results of `vqtk eval` differ from a run's own; an empty string if they can stand beside them."""
    if found.get("is_subset"):
        return "on a subset of the test examples"
    if found.get("updates") != run.summary["updates"]:
        return "of the weights of another update"
    search = found.get("search") or (None if _is_greedy(run.recipe) else "the recipe's search")
    return "" if search in (None, "greedy") else f"for codes found by {search}"


def _is_greedy(recipe: Recipe) -> bool:
    search = recipe.model.settings.get("search")
    return search is None or search.entry.name == "greedy"


def read_study(folder: Path) -> dict[str, Any]:
    """Return the content of a study's study.json. Raises: CheckpointError if it is damaged."""
    path = folder / STUDY
    try:
        return read_file(path, StudyFile)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} So it is not the study.json of a study: expected `cells`, each with `variant` and `path`. To "
            "write it again, repeat the study's command: vqtk ablate STUDY.yaml."
        ) from None


def _places(paths: Sequence[Path]) -> Iterator[_Place]:
    seen: set[Path] = set()
    for path in paths:
        for place in _below(path):
            if place.path.resolve() not in seen:
                seen.add(place.path.resolve())
                yield place


def _below(path: Path) -> list[_Place]:
    if not path.exists() and str(path) in shipped():
        raise CheckpointError(
            f"{path}: this is a model that ships with vqtk, and not a run. Compare models in one table with vqtk "
            f"results {path} MODEL, or measure each: vqtk eval {path}."
        )
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such directory. Expected a run directory, as runs/mnist/20260101-120000, a folder of them, or "
            "the directory of a study, as studies/condition."
        )
    studies = _studies(path)
    planned = [_Place(at / run["path"], (at, run["variant"]), run.get("choices") or {})
               for at in studies for run in read_study(at)["cells"]]  # fmt: skip
    if path in studies:
        return planned
    if (path / "recipe.yaml").is_file():
        return [_Place(path)]
    others = sorted(recipe.parent for recipe in path.rglob("recipe.yaml") if not set(studies) & set(recipe.parents))
    runs = [*planned, *(_Place(run) for run in others)]
    if not runs:
        raise CheckpointError(
            f"{path}: there is no run here, as no recipe.yaml is in or below it. Train one: vqtk run."
        )
    return runs


def _studies(path: Path) -> list[Path]:
    """Return the directories of studies at a path or below it."""
    if (path / STUDY).is_file():
        return [path]
    return sorted(found.parent for found in path.rglob(STUDY)) if path.is_dir() else []


def _read(path: Path) -> FinishedRun:
    """Return a finished run. Raises: VqtkError with the reason if it is not finished."""
    record = read_file(path / "cell.json", CellFile) if (path / "cell.json").is_file() else {}
    state = record.get("state", "done")
    if state == "failed":
        lines = str(record.get("error") or "").strip().splitlines() or ["no reason was given"]
        raise VqtkError(f"failed: {lines[-1]}")
    if state == "pruned":
        raise VqtkError(PRUNED + str(record.get("error") or "it was hopeless."))
    if state != "done":
        raise VqtkError(f"not finished: {state}.")
    if not path.is_dir():
        raise VqtkError("not started.")
    directory, recipe = RunDirectory.open(path)
    directory.check_recipe()
    metrics, damaged = read_metrics(path / "metrics.jsonl")
    if damaged:
        raise CheckpointError(f"{path / 'metrics.jsonl'}: {damaged:,} of its lines are damaged.")
    if not (path / "summary.json").is_file():
        done = max((row["update"] for row in metrics), default=0)
        raise VqtkError(f"not finished: {done:,} of {recipe.train.updates:,} updates.")
    return FinishedRun(path, recipe, directory.manifest(), directory.summary(), metrics)


def _identity(run: FinishedRun) -> str:
    """Return what of a run's recipe and plugins changes a result, as text that runs of one variant share."""
    plugins = sorted(plugin["sha256"] for plugin in run.manifest.get("plugins", []))
    return json.dumps([run.recipe.of_consequence(), plugins], sort_keys=True)


def _named(variants: list[Variant]) -> list[Variant]:
    """Make the names of variants unique: those of one name are named by what differs between their recipes."""
    for name in {variant.name for variant in variants}:
        alike = [variant for variant in variants if variant.name == name]
        if len(alike) > 1:
            prefix = "" if len(alike) == len(variants) else f"{name}, "
            for variant, differing in zip(alike, _names_of_differing(alike), strict=True):
                variant.name = prefix + differing
    taken: set[str] = set()
    for variant in variants:
        name = variant.name
        variant.name = next(each for n in count(1) if (each := name if n == 1 else f"{name}-{n}") not in taken)
        taken.add(variant.name)
        variant.runs = dict(sorted(variant.runs.items()))
    return variants


def _names_of_differing(variants: Sequence[Variant]) -> list[str]:
    """Return names such as `lr=0.001, condition=film`; those of the run directories if they would be long or alike."""
    plain = [variant.recipe.of_consequence() for variant in variants]
    found = {change.path: None for one in plain[1:] for change in changes(plain[0], one)}
    values = {path: tuple(shown_at(one, path) for one in plain) for path in found}
    by_key: dict[str, set[tuple[str | None, ...]]] = {}
    for path, each in values.items():
        by_key.setdefault(last_key(path), set()).add(each)
    parts = {}  # A nested spec repeats the condition of the model: one name for both.
    for path, each in values.items():
        parts[last_key(path) if len(by_key[last_key(path)]) == 1 else path] = each
    names = [", ".join(f"{key}={each[place]}" for key, each in parts.items() if each[place] is not None)
             for place in range(len(variants))]  # fmt: skip
    if all(0 < len(name) <= _LONGEST_NAME for name in names) and len(set(names)) == len(names):
        return names
    paths = [next(iter(variant.runs.values())).path.resolve() for variant in variants]
    depth = 1 if len({path.name for path in paths}) == len(paths) else 2
    return ["/".join(path.parts[-depth:]) for path in paths]
