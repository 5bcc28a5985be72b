"""Plugins: files that register components of their own when they are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from vqtk.errors import RegistryError


def load_plugins(paths: list[Path]) -> None:
    """Import plugin files or package folders, each once. Raises: RegistryError with file, line and cause."""
    for path in paths:
        _load(path.resolve())


def _load(path: Path) -> None:
    name = f"vqtk_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file() or source.suffix != ".py":
        raise RegistryError(f"plugin {path}: expected a .py file, or a folder with an __init__.py.")
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise RegistryError(f"plugin {_where(error, path)}: {_cause(error)}") from error


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _cause(error: BaseException) -> str:
    if isinstance(error, RegistryError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"the import failed with {type(error).__name__}: {text}"
