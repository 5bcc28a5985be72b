"""Plugins as files: new ones from a template, and those of a run, recorded, kept and checked."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from vqtk.errors import CheckpointError, RegistryError, VqtkWarning, nearest
from vqtk.files import replacing, write_text
from vqtk.plugin.loading import Plugin, hash_of, source_of, used_plugins
from vqtk.registry import REGISTRIES


def new_plugin(name: str, kind: str, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write `folder/NAME.py`, with a component of that name, and `folder/test_NAME.py`; return both paths.

    Raises: RegistryError if the name is invalid or taken, or one of the files exists and `force` is not given.
    """
    if kind not in REGISTRIES:
        raise RegistryError(
            f"there is no registry {kind!r}. {nearest(kind, list(REGISTRIES))}Known: {', '.join(REGISTRIES)}."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        suggested = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        better = f" Try {suggested!r}." if re.fullmatch(r"[a-z][a-z0-9_]*", suggested) else ""
        raise RegistryError(
            f"{name!r} cannot be a plugin's name, which is that of its file and component. Expected lower-case "
            f"letters, digits and `_`, beginning with a letter.{better}"
        )
    known = REGISTRIES[kind].entries()
    if name in known:
        raise RegistryError(f"there is already a {kind} called {name!r}: {known[name].origin}. Choose another name.")
    written = {folder / f"{name}.py": f"{kind}.py", folder / f"test_{name}.py": "test.py.txt"}
    for path in written:
        if path.exists() and not force:
            raise RegistryError(
                f"{path}: this file exists. Choose another name, or another folder with --out, or give --force to "
                "replace it."
            )
    for path, template in written.items():
        write_text(path, _filled(template, name, kind))
    plugin, test = written
    return plugin, test


def _filled(template: str, name: str, kind: str) -> str:
    """Return a template with `example` replaced by the component's name, and `Example` by its class's name."""
    text = files("vqtk.plugin.templates").joinpath(template).read_text(encoding="utf-8")
    if template.endswith(".txt"):
        return text.replace("NAME", name).replace("REGISTRY", kind)
    text = text.replace("example.py", f"{name}.py").replace("complete mnist example", f"complete mnist {name}")
    text = text.replace('register("example"', f'register("{name}"')
    text = re.sub(r"\b(name: |condition: )example\b", rf"\g<1>{name}", text)
    class_name = "".join(word.capitalize() for word in name.split("_"))
    if re.search(rf"\b{class_name}\b", text):  # Such as `Tensor`, which the template imports.
        class_name += kind.capitalize()
    return re.sub(r"\bExample\b", class_name, text)


FOLDER = "plugins"
_KEYS = ("file", "path", "sha256")
Record = dict[str, str]
"""The record of a plugin: the `file` name of its copy, the `path` it was read from, and its `sha256`."""


def records(plugins: Sequence[Plugin]) -> list[Record]:
    """Return the records of plugins for a manifest or a weights file; equal names are distinguished by their hashes."""
    names = [plugin.path.name for plugin in plugins]
    return [
        {
            "file": name if names.count(name) == 1 else f"{plugin.path.stem}_{plugin.sha256[:8]}{plugin.path.suffix}",
            "path": str(plugin.path),
            "sha256": plugin.sha256,
        }
        for name, plugin in zip(names, plugins, strict=True)
    ]


def keep(plugins: Sequence[Plugin], run: Path) -> list[Path]:
    """Copy plugins into a run directory; return their paths relative to it. Raises: OSError."""
    kept = []
    for record in records(plugins):
        source, place = Path(record["path"]), run / FOLDER / record["file"]
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            with replacing(place) as temporary:
                shutil.copyfile(source, temporary)
        kept.append(place.relative_to(run))
    return kept


def check_copies(recorded: Sequence[Record], run: Path) -> None:
    """Refuse a run whose copies of plugins have changed; warn where only the original has.

    Raises: CheckpointError, before anything is imported.
    """
    for record in checked(recorded, run / "manifest.json"):
        original, copy = Path(record["path"]), run / FOLDER / record["file"]
        if source_of(copy) and hash_of(copy) != record["sha256"]:
            raise CheckpointError(_differs(copy, run / "manifest.json"))
        if source_of(original) and hash_of(original) != record["sha256"]:
            warnings.warn(
                VqtkWarning(f"{original} has changed since this run was started; using the run's copy: {copy}."),
                stacklevel=2,
            )


def found(recorded: Sequence[Record], weights: Path) -> list[Path]:
    """Return the paths of the plugins to import for a weights file: the copies in the `plugins/` of its run.

    A weights file can name any file on this machine, so nothing else that it names is imported. A plugin of the same
    name that the user has given (--plugin) replaces the copy, with a warning if it differs.

    Raises: CheckpointError if a plugin is missing, or is not the one that the weights were trained with.
    """
    paths = []
    for record in checked(recorded, weights):
        given = [plugin for plugin in used_plugins() if plugin.path.name in (record["file"], Path(record["path"]).name)]
        if not given:
            paths.append(_kept(record, weights))
        elif given[-1].sha256 != record["sha256"]:
            warnings.warn(
                VqtkWarning(f"{given[-1].path} is not the plugin that {weights} was trained with."), stacklevel=2
            )
    return paths


def checked(recorded: Sequence[Record], source: Path) -> list[Record]:
    """Return records of plugins after checking them: a bare file name, a path, a hash. Raises: CheckpointError."""
    for record in recorded:
        if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in _KEYS):
            raise CheckpointError(f"{source}: its list of plugins cannot be read. Expected {', '.join(_KEYS)} of each.")
        name = record["file"]
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise CheckpointError(
                f"{source}: the name of its plugin is {name[:200]!r}; expected a bare file name. vqtk did not write "
                "this, or it was changed since. Do not load it."
            )
    return list(recorded)


def _kept(record: Record, weights: Path) -> Path:
    """Return the path of a plugin's copy in the run that a checkpoint belongs to."""
    if weights.resolve().parent.name == "checkpoints":
        place = weights.parent.parent / FOLDER / record["file"]
        if source_of(place):
            if hash_of(place) != record["sha256"]:
                raise CheckpointError(_differs(place, weights))
            return place
    beside = weights.parent / FOLDER / record["file"]
    if source_of(beside):
        raise CheckpointError(
            f"{weights}: these weights were trained with a plugin, and a bundle's plugins are not imported by "
            f"themselves. A plugin is code: read it, and if you trust it, load it with --plugin {beside}."
        )
    raise CheckpointError(
        f"{weights}: these weights were trained with the plugin {record['file']}, but are not in a run with a copy "
        f"of it. A plugin is code: if you trust it, load it with --plugin {record['file']}."
    )


def _differs(copy: Path, source: Path) -> str:
    return (
        f"{copy} is not the plugin that {source} records (its SHA-256 differs), so it is not imported. Restore the "
        f"original file, or, if you trust this one, load it with --plugin {copy}."
    )
