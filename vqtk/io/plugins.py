"""Plugins kept with what was trained by them, and found again."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from vqtk.errors import CheckpointError, VqtkWarning
from vqtk.io.atomic import replacing
from vqtk.plugin import Plugin, hash_of, source_of, used

FOLDER = "plugins"
Record = dict[str, str]
"""Of one plugin: the `file` it is kept as, the `path` it was read from, and its `sha256`."""


def records(plugins: Sequence[Plugin]) -> list[Record]:
    """Return what a manifest or a weights file says of plugins; those of one name are told apart by their hash."""
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
    """Copy plugins into a run directory; return where they are, relative to it. Raises: OSError."""
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


def tell_changed(recorded: Sequence[Record], run: Path) -> None:
    """Warn of each plugin of a run that has changed since it was started, at its origin or in the run's copy."""
    for record in recorded:
        original, copy = Path(record["path"]), run / FOLDER / record["file"]
        if source_of(copy) and hash_of(copy) != record["sha256"]:
            warnings.warn(VqtkWarning(f"{copy} is not the plugin that this run was started with."), stacklevel=2)
        elif source_of(original) and hash_of(original) != record["sha256"]:
            warnings.warn(
                VqtkWarning(f"{original} has changed since this run was started; the run's own copy is used: {copy}."),
                stacklevel=2,
            )


def found(recorded: Sequence[Record], weights: Path) -> list[Path]:
    """Return where the plugins of a weights file are: in its run, beside it, or where they were read from.

    One of the same name that the user has given for the whole process takes its place. Warns of those that differ
    from what the weights were trained with. Raises: CheckpointError if one is nowhere.
    """
    paths = []
    for record in recorded:
        given = [plugin for plugin in used() if plugin.path.name == Path(record["path"]).name]
        if given:
            _tell_difference(given[-1].path, given[-1].sha256, record, weights)
        else:
            paths.append(_found(record, weights))
    return paths


def _found(record: Record, weights: Path) -> Path:
    folders = (weights.parent.parent / FOLDER, weights.parent / FOLDER, weights.parent)
    places = [*(folder / record["file"] for folder in folders), Path(record["path"])]
    there = [place for place in places if source_of(place)]
    same = [place for place in there if hash_of(place) == record["sha256"]]
    if not there:
        raise CheckpointError(
            f"{weights}: these weights were trained with the plugin {record['path']}, which is not there, nor beside "
            "them. Give the file with --plugin, or put it beside the weights."
        )
    if same and there[-1] == places[-1] and places[-1] not in same:
        warnings.warn(
            VqtkWarning(f"{places[-1]} has changed since {weights} was trained; its own copy is used: {same[0]}."),
            stacklevel=2,
        )
    if not same:
        _tell_difference(there[0], hash_of(there[0]), record, weights)
    return (same or there)[0]


def _tell_difference(path: Path, sha256: str, record: Record, weights: Path) -> None:
    if sha256 != record["sha256"]:
        warnings.warn(VqtkWarning(f"{path} is not the plugin that {weights} was trained with."), stacklevel=2)
