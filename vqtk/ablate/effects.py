"""Main effects: the mean over the cells of each value of an axis, all else being equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from vqtk.ablate.measured import spread

Cells = Sequence[tuple[Mapping[str, str], Mapping[int, float]]]
"""Of each variant, its value on each axis, and its figure by seed."""


def main_effects(axes: Mapping[str, Sequence[str]], cells: Cells) -> dict[str, list[dict[str, Any]]]:
    """Return for each axis a row a value: mean and deviation over seeds of its mean over cells, and their number.

    Only sets of cells that differ in this axis alone and have all its values are taken, with the seeds that all of
    them have; an axis without such a set is left out.
    """
    found = {axis: _effect(axis, values, cells) for axis, values in axes.items()}
    return {axis: rows for axis, rows in found.items() if rows}


def _effect(axis: str, values: Sequence[str], cells: Cells) -> list[dict[str, Any]]:
    sets: dict[tuple[tuple[str, str], ...], dict[str, Mapping[int, float]]] = {}
    for choices, by_seed in cells:
        if axis in choices:
            rest = tuple(sorted((name, value) for name, value in choices.items() if name != axis))
            sets.setdefault(rest, {})[choices[axis]] = by_seed
    whole = [each for each in sets.values() if set(values) <= set(each)]
    seeds = set.intersection(*(set(each[value]) for each in whole for value in values)) if whole and values else set()
    if not seeds:
        return []
    return [
        {
            "value": value,
            "cells": len(whole),
            "seeds": len(seeds),
            **spread([fmean(each[value][seed] for each in whole) for seed in sorted(seeds)]),
        }
        for value in values
    ]
