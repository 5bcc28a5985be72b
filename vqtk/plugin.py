"""Plugins: files that register components of their own when they are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from vqtk.errors import RegistryError
from vqtk.registry import REGISTRIES

PREFIX = "vqtk_plugin_"


def in_plugin(error: BaseException) -> str | None:
    """Return the file and line of the plugin that an error came out of, if it did."""
    frames = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(PREFIX)
    ]
    return frames[-1] if frames else None


def told(error: BaseException) -> str:
    """Return an error of other code on one line, with the file and line that raised it, or of the plugin it is in."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = in_plugin(error) or f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"


def load_plugins(paths: list[Path]) -> None:
    """Import plugin files or package folders, each once. Raises: RegistryError with file, line and cause."""
    for path in paths:
        _load(path.resolve())


def source_of(path: Path) -> Path | None:
    """Return the file to import for a plugin's path, a .py file or a package folder; None if it is neither."""
    source = path / "__init__.py" if path.is_dir() else path
    return source if source.is_file() and source.suffix == ".py" else None


def _load(path: Path) -> None:
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    source = source_of(path)
    if source is None:
        raise RegistryError(f"plugin {path}: expected a .py file, or a folder with an __init__.py.")
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        _unload(name)
        if isinstance(error, RegistryError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise RegistryError(f"plugin {_where(error, path)}: the import failed with {_cause(error)}.") from error


def _unload(name: str) -> None:
    """Take back what a half imported plugin left, so that a mended one can be loaded in this process."""
    for imported in [other for other in sys.modules if f"{other}.".startswith(f"{name}.")]:
        del sys.modules[imported]
        for registry in REGISTRIES.values():
            registry.forget(imported)


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(path)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)


def _cause(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
