"""The contract of a component: a list of checks, by the registry that it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import SkipTest

import torch

from vqtk.errors import RegistryError, VqtkError, nearest
from vqtk.plugin import active, load, told
from vqtk.registry import REGISTRIES, Entry, Registry, Settings
from vqtk.testing import _datasets, _deltas, _guides, _losses, _maps, _models, _objectives, _selection
from vqtk.testing._case import Case, Clause, ContractError

_OWN: dict[str, list[Clause]] = {
    "backbone": _maps.CHECKS,
    "block": _maps.CHECKS,
    "condition": _maps.CHECKS,
    "head": [*_maps.CHECKS, *_deltas.HEAD_CHECKS],
    "refiner": [*_maps.CHECKS, *_deltas.REFINER_CHECKS],
    "loss": _losses.CHECKS,
    "selector": _selection.CHECKS,
    "objective": _objectives.CHECKS,
    "guide": _guides.CHECKS,
    "dataset": _datasets.CHECKS,
}
"""What a component is asked by itself."""
_NO_PARTS = ("objective", "guide", "dataset")
"""The kinds that are no part of a model; the others are tried in one, too."""


@dataclass(frozen=True)
class Check:
    """One clause of a component's contract, to be called; its text says which component and what it is held to.

    `component` is the registry and the name, as in "block conv"; `origin` the file and line that define it.
    """

    component: str
    name: str
    origin: str
    _case: Case = field(repr=False)
    _function: Clause = field(repr=False)

    def __str__(self) -> str:
        return f"{self.component}: {self.name}"

    def __call__(self) -> None:
        """Check.

        Raises: ContractError that says what was found, where, and what to do; unittest.SkipTest, which pytest takes
        for a skipped test, if data that it needs are not at hand.
        """
        case = self._case
        case.place = ""
        with active(case.plugins), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                self._function(case)
            except (ContractError, SkipTest):
                raise
            except Exception as error:
                found = " ".join(str(error).split()) if isinstance(error, VqtkError) else told(error)
                place = f", {case.place}" if case.place else ""
                small = case.registry.kind == "loss" and case.entry.data is None
                advice = (
                    " If it needs larger examples, name such data at its registration, `data={…}`." if small else ""
                )
                raise ContractError(
                    f"{self.component} ({self.origin}){place}: it fails where it is checked that it {self.name}: "
                    f"{found}.{advice}"
                ) from error


def contract(
    kind: str, name: str, *, example: Settings | None = None, backend: str = "eager", plugins: Sequence[Path] = ()
) -> list[Check]:
    """Return the checks of a registered component: `contract("block", "conv")`.

    It is tried with the settings that it was registered with as its example, or with these. `backend` is that of
    `torch.compile`. `plugins` are active while it is checked.
    Raises: RegistryError if there is no such registry or component, or a plugin cannot be loaded.
    """
    if kind not in REGISTRIES:
        known = ", ".join(REGISTRIES)
        raise RegistryError(f"there is no registry {kind!r}. {nearest(kind, list(REGISTRIES))}Known: {known}.")
    with active(plugins):
        entry = REGISTRIES[kind].get(name)
    entry = entry if example is None else replace(entry, example=example)
    return _checks(REGISTRIES[kind], entry, tuple(plugins), backend)


def plugin_contract(path: Path, *, backend: str = "eager") -> list[Check]:
    """Return the checks of every component that a plugin, a file or a package folder, registers.

    Raises: RegistryError if it cannot be loaded.
    """
    entries = load(path).entries
    return [check for registry, entry in entries for check in _checks(registry, entry, (path,), backend)]


def _checks(registry: Registry, entry: Entry, plugins: tuple[Path, ...], backend: str) -> list[Check]:
    case = Case(registry, entry, plugins, backend)
    functions = list(_OWN.get(registry.kind, []))
    if registry.kind not in _NO_PARTS:
        functions += _models.checks(case)
    return [Check(case.component, _sentence(check), entry.origin, case, check) for check in functions]


def _sentence(check: Clause) -> str:
    return check.__name__.replace("_", " ")
