"""A plugin checked as a whole: loaded, and each of its components held to its contract."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import SkipTest

from vqtk.errors import RegistryError
from vqtk.plugin import PREFIX
from vqtk.testing._case import ContractError
from vqtk.testing.contract import Check, plugin_contract

_REGISTER = (
    'Decorate a class, as in: `from vqtk.registry import blocks`, then `@blocks.register("my_block")` above '
    "`class MyBlock`."
)


@dataclass(frozen=True)
class Result:
    """What came of one check of one component; `message` says why it failed or was skipped."""

    component: str
    check: str
    origin: str
    outcome: Literal["ok", "failed", "skipped"]
    message: str = ""


def check_plugin(path: Path, *, backend: str = "eager") -> Iterator[Result]:
    """Hold every component of a plugin, a file or a package folder, to its contract; yield each check's result.

    Raises: RegistryError if it cannot be loaded, with file, line and cause, or if it registers nothing.
    """
    try:
        checks = plugin_contract(path, backend=backend)
    except RegistryError as error:
        cycle = _cycle(error.__cause__)
        if cycle is None:
            raise
        raise RegistryError(
            f"{error} This is an import cycle: {' → '.join(cycle)}. Move what both need into a module of its own, or "
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
    """Return the modules of the import cycle that an error came of, the first one again at the end; None if of none."""
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
    """Return a plugin module's name as its author knows it: without the prefix and the hash that it is imported by."""
    package, dot, inner = module.removeprefix(PREFIX).partition(".")
    return f"{package.rpartition('_')[0]}{dot}{inner}"
