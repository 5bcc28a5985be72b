"""Load plugins: files, package folders and installed packages, each imported once for each hash of its sources."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from vqtk.errors import RegistryError, nearest, on_one_line
from vqtk.registry import REGISTRIES, Entry, Registry

PREFIX = "vqtk_plugin_"
_MOST_SEARCHED, _MOST_BYTES = 200, 1 << 20
"""The most plugin files, and the most bytes of each, that are searched for a component's name."""
_MOVED = {
    "vqtk.nn.state": "vqtk.nn.stage",
    "vqtk.io.atomic": "vqtk.files",
    "vqtk.train": "vqtk.training",
    "vqtk.train.loop": "vqtk.training.loop",
}
"""Modules of earlier versions, and where their contents are now: runs keep copies of the plugins that import them."""


@dataclass(frozen=True)
class Plugin:
    """An imported plugin: its path, the hash of its files, and the components that it registers."""

    path: Path
    sha256: str
    entries: tuple[tuple[Registry, Entry], ...]


_loaded: dict[str, Plugin] = {}
_used: list[Plugin] = []


def load_plugin(path: Path) -> Plugin:
    """Import a plugin file or package folder, once for each content; its components are not left registered.

    Raises: RegistryError with file, line and cause.
    """
    with loaded_plugins([path]) as (plugin,):
        return plugin


@contextmanager
def loaded_plugins(paths: Sequence[Path]) -> Iterator[list[Plugin]]:
    """Register the components of plugins for the duration of the context. Raises: RegistryError, as `load_plugin`."""
    if not paths:
        yield []
        return
    before = {registry: registry.snapshot() for registry in REGISTRIES.values()}
    try:
        yield [_registered(path.resolve()) for path in paths]
    finally:
        for registry, entries in before.items():
            registry.restore(entries)


@contextmanager
def use_plugins(paths: Sequence[Path]) -> Iterator[list[Plugin]]:
    """Register plugins for the context, and record them with every recipe that is read within it.

    Raises: RegistryError, as `load_plugin`.
    """
    with loaded_plugins(paths) as plugins:
        _used.extend(plugins)
        try:
            yield plugins
        finally:
            del _used[len(_used) - len(plugins) :]


def used_plugins() -> list[Plugin]:
    """Return the plugins that the user gave in addition to those that recipes name."""
    return list(_used)


def offered(registry: Registry, name: str) -> str:
    """Return which file in `plugins/` registers a component of that name, as a sentence; empty if none does.

    The files are read and not imported: they may be anyone's.
    """
    registers = re.compile(rf"""\b{registry.package.rpartition(".")[2]}\.register\(\s*["']{re.escape(name)}["']""")
    try:
        files = sorted(Path("plugins").glob("*.py"))[:_MOST_SEARCHED]
        found = [file for file in files if file.stat().st_size <= _MOST_BYTES and registers.search(file.read_text())]
    except (OSError, ValueError):
        return ""
    if not found:
        return ""
    return (
        f"no {registry.kind} called {name!r} is loaded, but {found[0]} registers one. Pass --plugin {found[0]}, or "
        "list the file under `plugins:` in the recipe."
    )


def source_of(path: Path) -> Path | None:
    """Return the file to import for a plugin's path; None if the path is neither a .py file nor a package folder."""
    try:
        source = path / "__init__.py" if path.is_dir() else path
        return source if source.is_file() and source.suffix == ".py" else None
    except (OSError, ValueError):  # Not a possible path: too long, or with a null character.
        return None


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a plugin: of the file, or of the names and contents of all files in a package."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for source in sorted(path.rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts:
            digest.update(f"{source.relative_to(path).as_posix()}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()


def in_plugin(error: BaseException) -> str | None:
    """Return the file and line of the plugin that raised an error; None if no plugin did."""
    frames = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(PREFIX)
    ]
    return frames[-1] if frames else None


def described(error: BaseException, *, named: bool = True) -> str:
    """Return an error of foreign code on one line, with the file and line that raised it.

    For an error within a plugin they are the plugin's, and with `named` its component comes first.
    """
    component = _component_of(error) if named else None
    return f"{component + ': ' if component else ''}{on_one_line(error, where=in_plugin(error))}"


def _component_of(error: BaseException) -> str | None:
    """Return the kind and name of the innermost plugin component that raised an error; None if there is none."""
    known = {entry.component: (registry, entry) for plugin in _loaded.values() for registry, entry in plugin.entries}
    own = [known.get(type(frame.f_locals.get("self"))) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((f"{found[0].kind} {found[1].name!r}" for found in reversed(own) if found), None)


def _registered(path: Path) -> Plugin:
    """Register the components of the plugin at a path, and return the plugin."""
    if source_of(path) is None:
        found = "not a Python file or package" if path.exists() else "there is no such file"
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise RegistryError(
            f"plugin {path}: {found}. {nearest(path.name, beside)}Expected a .py file, or a folder with an __init__.py."
        )
    sha256 = hash_of(path)
    if sha256 in _loaded:
        for registry, entry in _loaded[sha256].entries:
            registry.put(entry)
    else:
        _loaded[sha256] = Plugin(path, sha256, _imported(path, sha256))
    return replace(_loaded[sha256], path=path)


def _imported(path: Path, sha256: str) -> tuple[tuple[Registry, Entry], ...]:
    """Import a plugin and return the components that it registers; if it fails, leave nothing of it behind."""
    before = {registry: registry.snapshot() for registry in REGISTRIES.values()}
    name = f"{PREFIX}{path.stem}_{sha256[:8]}"
    try:
        _execute(name, path)
    except BaseException as error:
        for imported in [other for other in sys.modules if f"{other}.".startswith(f"{name}.")]:
            del sys.modules[imported]
        for registry, kept in before.items():
            registry.restore(kept)
        if isinstance(error, RegistryError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise RegistryError(f"plugin {_where(error, path)}: the import failed with {_cause(error)}.") from error
    return tuple(
        (registry, entry)
        for registry, known in before.items()
        for key, entry in registry.snapshot().items()
        if known.get(key) is not entry
    )


class _Moved(ModuleType):
    """A module under its earlier name; its contents are imported when they are asked for."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(_MOVED[self.__name__]), name)


def _execute(name: str, path: Path) -> None:
    """Import a plugin's source without writing bytecode: a quick second edit could be mistaken for the first."""
    spec = importlib.util.spec_from_file_location(name, source_of(path))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules.update({old: _Moved(old) for old in _MOVED})
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept
        for old in _MOVED:
            sys.modules.pop(old, None)


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(path)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)


def _cause(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
