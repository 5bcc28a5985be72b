"""The contract of a component: a list of checks, which depends on its registry."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from unittest import SkipTest

import torch

from vqtk.errors import RegistryError, VqtkError, nearest
from vqtk.plugin.loading import PREFIX, described, load_plugin, loaded_plugins
from vqtk.registry import REGISTRIES, Entry, Registry, Settings
from vqtk.testing import _choosing, _data, _losses, _maps, _models, _optimizing, _training
from vqtk.testing._case import Case, Clause, ContractError

_OWN: dict[str, list[Clause]] = {
    "backbone": _maps.CHECKS,
    "block": _maps.CHECKS,
    "condition": _maps.CHECKS,
    "head": [*_maps.CHECKS, *_maps.HEAD_CHECKS],
    "refiner": [*_maps.CHECKS, *_maps.REFINER_CHECKS],
    "loss": _losses.CHECKS,
    "selector": _choosing.SELECTION_CHECKS,
    "search": _choosing.SEARCH_CHECKS,
    "objective": _training.OBJECTIVE_CHECKS,
    "revival": _training.REVIVAL_CHECKS,
    "optimizer": _optimizing.OPTIMIZER_CHECKS,
    "schedule": _optimizing.SCHEDULE_CHECKS,
    "callback": _training.CALLBACK_CHECKS,
    "guide": _choosing.GUIDE_CHECKS,
    "metric": _data.METRIC_CHECKS,
    "augmentation": _data.AUGMENTATION_CHECKS,
    "dataset": _data.DATASET_CHECKS,
}
"""The checks of a component on its own."""
_NO_PARTS = (
    "objective", "optimizer", "schedule", "revival", "callback", "guide", "metric", "augmentation", "dataset",
)  # fmt: skip
"""The kinds that are not part of a model; all others are tested within a model as well."""


@dataclass(frozen=True)
class Check:
    """One clause of a component's contract, as a callable; its text names the component and the requirement.

    `component` is the registry and the name, as in "block conv"; `origin` is the file and line that define it.
    """

    component: str
    name: str
    origin: str
    _case: Case = field(repr=False)
    _function: Clause = field(repr=False)

    def __str__(self) -> str:
        return f"{self.component}: {self.name}"

    def __call__(self) -> None:
        """Run the check.

        Raises: ContractError that says what was found, where, and what to do; unittest.SkipTest, which pytest reports
        as a skipped test, if the data that it needs are not available.
        """
        case = self._case
        case.place = ""
        with loaded_plugins(case.plugins), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                self._function(case)
            except (ContractError, SkipTest):
                raise
            except Exception as error:
                found = " ".join(str(error).split()) if isinstance(error, VqtkError) else described(error)
                place = f", {case.place}" if case.place else ""
                small = case.registry.kind == "loss" and case.entry.data is None
                advice = " If it needs larger examples, register it with such data: `data={…}`." if small else ""
                raise ContractError(
                    f"{self.component} ({self.origin}){place}: an error stopped the check: {found}.{advice}"
                ) from error


def contract(
    kind: str, name: str, *, example: Settings | None = None, backend: str = "eager", plugins: Sequence[Path] = ()
) -> list[Check]:
    """Return the checks of a registered component: `contract("block", "conv")`.

    Arguments:
        kind: the registry.
        name: the name of the component.
        example: the settings to test it with; by default those that it is registered with.
        backend: that of `torch.compile`.
        plugins: plugins that are registered during the checks.

    Raises: RegistryError if there is no such registry or component, or a plugin cannot be loaded.
    """
    if kind not in REGISTRIES:
        known = ", ".join(REGISTRIES)
        raise RegistryError(f"there is no registry {kind!r}. {nearest(kind, list(REGISTRIES))}Known: {known}.")
    with loaded_plugins(plugins):
        entry = REGISTRIES[kind].get(name)
    entry = entry if example is None else replace(entry, example=example)
    return _checks(REGISTRIES[kind], entry, tuple(plugins), backend)


def plugin_contract(path: Path, *, backend: str = "eager") -> list[Check]:
    """Return the checks of every component that a plugin (a file or a package folder) registers.

    Raises: RegistryError if it cannot be loaded.
    """
    entries = load_plugin(path).entries
    return [check for registry, entry in entries for check in _checks(registry, entry, (path,), backend)]


def _checks(registry: Registry, entry: Entry, plugins: tuple[Path, ...], backend: str) -> list[Check]:
    case = Case(registry, entry, plugins, backend)
    functions = list(_OWN.get(registry.kind, []))
    if registry.kind not in _NO_PARTS:
        functions += _models.checks(case)
    return [Check(case.component, _sentence(check), entry.origin, case, check) for check in functions]


def _sentence(check: Clause) -> str:
    return check.__name__.replace("_", " ")


_REGISTER = (
    'Decorate a class, as in: `from vqtk.registry import blocks`, then `@blocks.register("my_block")` above '
    "`class MyBlock`."
)


@dataclass(frozen=True)
class Result:
    """The result of one check of one component; `message` says why it failed or was skipped."""

    component: str
    check: str
    origin: str
    outcome: Literal["ok", "failed", "skipped"]
    message: str = ""


def check_plugin(path: Path, *, backend: str = "eager") -> Iterator[Result]:
    """Check every component of a plugin (a file or a package folder) against its contract; yield each result.

    Raises: RegistryError, with file, line and cause, if it cannot be loaded; or if it registers nothing.
    """
    try:
        checks = plugin_contract(path, backend=backend)
    except RegistryError as error:
        cycle = _cycle(error.__cause__)
        if cycle is None:
            raise
        raise RegistryError(
            f"{error} This is an import cycle: {' → '.join(cycle)}. Move what both need into a separate module, or "
            "import it inside the function that uses it."
        ) from None
    if not checks:
        raise RegistryError(f"plugin {path}: it registers no component. {_REGISTER}")
    for check in checks:
        yield _result(check)


def _result(check: Check) -> Result:
    try:
        check()
    except ContractError as error:
        return Result(check.component, check.name, check.origin, "failed", str(error))
    except SkipTest as reason:
        return Result(check.component, check.name, check.origin, "skipped", str(reason))
    return Result(check.component, check.name, check.origin, "ok")


def _cycle(error: BaseException | None) -> list[str] | None:
    """Return the modules of the import cycle that caused an error, the first repeated at the end; None if none did."""
    if not isinstance(error, (ImportError, AttributeError)) or "partially initialized module" not in str(error):
        return None
    half_imported = error.name if isinstance(error, ImportError) else getattr(error.obj, "__name__", None)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    importing = [str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"]
    within = [name for name in importing if name.startswith(PREFIX)]
    if half_imported not in within:
        return None
    cycle = [*within[within.index(half_imported) :], half_imported]
    return [_shown(name) for name in cycle]


def _shown(module: str) -> str:
    """Return a plugin module's name as its author knows it, without the prefix and hash that vqtk imports it by."""
    package, dot, inner = module.removeprefix(PREFIX).partition(".")
    return f"{package.rpartition('_')[0]}{dot}{inner}"
