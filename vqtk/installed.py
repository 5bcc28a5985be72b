"""Installed packages that bring components: those with an entry point in the group `vqtk.plugins`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from vqtk.plugin import told
from vqtk.registry import REGISTRIES

GROUP = "vqtk.plugins"


@dataclass(frozen=True)
class Installed:
    """An entry point and its package; `error` says why it could not be imported, None if it was."""

    name: str
    package: str
    version: str
    error: str | None


def import_installed() -> list[Installed]:
    """Import the packages that announce themselves, each apart: a broken one leaves nothing registered."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return [_import(point) for point in found]


def _import(point: EntryPoint) -> Installed:
    before = {registry: registry.snapshot() for registry in REGISTRIES.values()}
    error = None
    try:
        point.load()
    except (Exception, SystemExit) as raised:
        error = told(raised)
        for registry, entries in before.items():
            registry.restore(entries)
    package, version = (point.dist.name, point.dist.version) if point.dist else (point.value, "")
    return Installed(point.name, package, version, error)
