"""Designs that depend on results: seeds that are added until differences are known, variants that optuna proposes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vqtk.compare.collect import Collected, collect, without_diverged
from vqtk.compare.metrics import common_span, finite, value_of
from vqtk.compare.statistics import LEAST, seeds_needed
from vqtk.errors import VqtkError
from vqtk.io.run_files import read_metrics, watched_of
from vqtk.recipe.show import value_at
from vqtk.study.design import BASE, Choices, Drawn, Range, add_number, name_of
from vqtk.study.plan import CostMeasure, Plan, plan
from vqtk.study.state import read_state
from vqtk.study.study import Study

PRUNE_AFTER, PRUNE_LEAST = 0.25, 4
"""The share of a run's updates before which it is not pruned, and the fewest earlier runs that it is compared with."""
RANDOM_FIRST = 5
"""The variants, the baseline among them, before which proposals are random."""
_ASKED = 20
"""How often optuna is asked for each proposal, as numbers that are rounded may be those of an earlier one."""


def extended(made: Plan, folder: Path, measure: CostMeasure) -> Plan | None:
    """Return the plan with the runs that follow from the results of all runs before; None if there are none.

    It depends on the study and on these results alone, so that a study that is resumed goes on in the same way.

    Raises: VqtkError if optuna is needed and not installed.
    """
    if made.study.seeding and not made.seeds:
        return _with_seeds(made, folder)
    if made.study.drawn and made.study.drawn.by == "optuna":
        return _with_proposals(made, made.study.drawn, folder, measure)
    return None


def _results(made: Plan, folder: Path) -> dict[str, dict[int, float]]:
    """Return the main metric of the finished runs of each variant, by seed."""
    try:
        found: Collected = without_diverged(collect([folder]))
    except VqtkError:
        return {}
    metric, span = made.study.metrics[0].name, common_span(found.runs)
    reached = {
        one.name: {seed: value_of(run, metric, span) for seed, run in one.runs.items()} for one in found.variants
    }
    return {name: {s: value for s, value in of.items() if value is not None} for name, of in reached.items()}


# ── seeds ────────────────────────────────────────────────────────────────────────────────────────


def _with_seeds(made: Plan, folder: Path) -> Plan | None:
    """Return the plan with the seeds of Stein's second stage; those of the baseline pair with all others."""
    seeding, results = made.study.seeding, _results(made, folder)
    assert seeding
    base, counts = name_of(made.study.baseline), {}
    for variant in made.variants:
        common = sorted(results.get(base, {}).keys() & results.get(variant.name, {}).keys())
        gaps = [results[variant.name][seed] - results[base][seed] for seed in common]
        needed = seeds_needed(gaps, seeding.until) if len(gaps) >= LEAST and variant.name != base else 0
        counts[variant.name] = min(seeding.most, max(seeding.start, needed))
    counts[base] = max(counts.values())
    if counts[base] == seeding.start:
        return None
    return replace(made, seeds={name: list(range(count)) for name, count in counts.items()})


# ── optuna ───────────────────────────────────────────────────────────────────────────────────────


def _with_proposals(made: Plan, drawn: Drawn, folder: Path, measure: CostMeasure) -> Plan | None:
    """Return the plan with the next variants that optuna proposes."""
    study = made.study
    left = drawn.count + 1 - len(study.variants)
    proposed = _proposed(made, drawn, folder, min(left, drawn.batch)) if left > 0 else []
    if not proposed:
        return None
    grown = plan(replace(study, variants=[*study.variants, *proposed]), folder, measure)
    limits = _limits(made, folder) if drawn.prune else {}
    return replace(grown, limits=limits, newest=frozenset(map(name_of, proposed)))


def _proposed(made: Plan, drawn: Drawn, folder: Path, count: int) -> list[Choices]:
    """Return new variants by a tree-structured Parzen estimator; its draws depend on the seed and the variants so far.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; the implementation is optuna's.
    """
    optuna, study = _optuna(), made.study
    categorical = optuna.distributions.CategoricalDistribution
    whole = {axis: numbers for axis, numbers in study.ranges.items() if numbers.n is None}
    space = {
        axis: _space(optuna, whole[axis]) if axis in whole else categorical(list(values))
        for axis, values in study.axes.items()
    }
    better = "maximize" if study.metrics[0].better == "higher" else "minimize"
    drawn_by, parallel = drawn.seed + len(study.variants), drawn.batch > 1
    sampler = optuna.samplers.TPESampler(seed=drawn_by, n_startup_trials=RANDOM_FIRST, constant_liar=parallel)
    asked = optuna.create_study(direction=better, sampler=sampler)
    for trial in _trials(made, folder, optuna, space):
        asked.add_trial(trial)
    found: list[Choices] = []
    for _ in range(_ASKED * count):
        if len(found) == count:
            break
        params = asked.ask(space).params
        choices = {
            axis: add_number(study.axes, axis, whole[axis].rounded(value), study.axes[axis][BASE].where)
            if axis in whole else value
            for axis, value in params.items()
        }  # fmt: skip
        if choices not in [*study.variants, *found]:
            found.append(choices)
    return found


def _space(optuna: Any, numbers: Range) -> Any:
    log, ends = numbers.scale == "log", (numbers.low, numbers.high)
    kinds = optuna.distributions
    return kinds.IntDistribution(*ends, log=log) if numbers.whole else kinds.FloatDistribution(*ends, log=log)


def _trials(made: Plan, folder: Path, optuna: Any, space: dict[str, Any]) -> list[Any]:
    """Return a trial for each variant so far, with what it reached. The baseline is left out if it is out of range."""
    results, states, trials = _results(made, folder), optuna.trial.TrialState, []
    pruned = {run.variant.name for run in made.runs() if read_state(folder / run.path).state == "pruned"}
    for variant in made.variants:
        params = {
            axis: _param(axis, value, made.study, variant.recipe.plain()) for axis, value in variant.choices.items()
        }
        known = results.get(variant.name, {})
        if not all(value is not None and space[axis]._contains(value) for axis, value in params.items()):
            continue
        state = states.PRUNED if variant.name in pruned else states.COMPLETE if known else states.FAIL
        value = fmean(known.values()) if state == states.COMPLETE else None
        trials.append(optuna.trial.create_trial(state=state, params=params, distributions=space, value=value))
    return trials


def _param(axis: str, value: str, study: Study, plain: dict[str, Any]) -> Any:
    numbers = study.ranges.get(axis)
    return finite(value_at(plain, axis)) if numbers and numbers.n is None else value


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise VqtkError(
            "cells: {optuna: …} needs optuna, which is not installed: pip install 'vqtk[optuna]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


# ── pruning ──────────────────────────────────────────────────────────────────────────────────────


def _limits(made: Plan, folder: Path) -> dict[int, dict[int, float]]:
    """Return by seed and update the median of the main metric over the finished runs; a run that is worse is hopeless.

    Runs of later variants are compared with those that had finished when they were proposed, and not with each other:
    which of them are pruned does not depend on how fast they run.

    Source: the median stopping rule of Golovin et al. 2017, Google Vizier.
    """
    metric, found = made.study.metrics[0].name, dict[int, dict[int, list[float]]]()
    for run in made.runs():
        if read_state(folder / run.path).state != "done":
            continue
        rows, _ = read_metrics(folder / run.path / "metrics.jsonl")
        least = PRUNE_AFTER * run.variant.recipe.train.updates
        for row in rows:
            evaluated = watched_of(row)
            value = finite(evaluated.get(metric)) if evaluated and "end" not in row else None
            if value is not None and row["update"] >= least:
                found.setdefault(run.seed, {}).setdefault(row["update"], []).append(value)
    return {
        seed: {update: median(values) for update, values in of.items() if len(values) >= PRUNE_LEAST}
        for seed, of in found.items()
    }
