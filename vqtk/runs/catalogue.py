"""Runs as things: found in folders, described, filtered, labelled, deleted. Reading them loads no torch."""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from vqtk.errors import CheckpointError, RecipeError, VqtkError, nearest
from vqtk.files import RUN, is_locked, locked, set_apart, write_text
from vqtk.io.run_files import (
    CellFile,
    EvaluationFile,
    File,
    LabelsFile,
    ManifestFile,
    SummaryFile,
    read_file,
    resumable,
)
from vqtk.recipe.node import read

LABELS = "labels.json"
"""The file of a run that holds its tags and its note."""
MOST_BYTES = 1 << 25
"""The largest file of a run that is read for a listing."""
FACTS = ("name", "state", "seed", "updates", "started", "train_s", "bits_per_item", "parameters", "kind", "loss", "tag",
         "note", "path")  # fmt: skip
"""What a listing knows of each run besides its test metrics and its recipe."""
STATES = ("done", "training", "stopped", "waiting", "failed", "damaged")
TERMS = ("choice", "final", "all")
"""Test metrics that settings are named after as well; a run without an evaluation has none of them."""


@dataclass
class ListedRun:
    """A run directory as a listing shows it. `damage` says which file cannot be read, and is empty if all can."""

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    cell: dict[str, Any] = field(default_factory=dict)
    damage: str = ""

    @classmethod
    def of(cls, path: Path) -> ListedRun:
        """Return the run at a path, as far as its files can be read."""
        run = cls(path)
        for name, kind, held in (
            ("manifest.json", ManifestFile, "manifest"), ("summary.json", SummaryFile, "summary"),
            ("cell.json", CellFile, "cell"), (LABELS, LabelsFile, "labels"),
        ):  # fmt: skip
            try:
                setattr(run, held, _read(path / name, kind))
            except CheckpointError as error:
                run.damage = run.damage or str(error)
        if not (path / "recipe.yaml").is_file():
            run.damage = run.damage or f"{path}: recipe.yaml is missing."
        if not run.manifest and run.cell.get("state", "done") == "done":
            run.damage = run.damage or f"{path}: the manifest is missing."
        return run

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self.damage:
            return "damaged"
        if is_locked(self.path / RUN):
            return "training"
        if self.cell.get("state") in ("failed", "waiting"):
            return str(self.cell["state"])
        return "done" if self.summary else "stopped"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The final test metrics, or the newest ones of a run that is not finished."""
        if self.summary:
            return dict(self.summary["test"])
        try:
            return dict(_read(self.path / "evaluation.json", EvaluationFile).get("row", {}))
        except CheckpointError:  # It is being written, or was cut short: the next evaluation replaces it.
            return {}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain values by dotted path; {} if it cannot be read."""
        plain = self.manifest.get("recipe")
        if not isinstance(plain, dict):
            try:
                plain = read(self.path / "recipe.yaml").plain()
            except RecipeError:
                return {}
        try:
            return dict(_leaves(plain, ""))
        except RecursionError:  # Nested by hand: vqtk writes no such recipe.
            return {}

    @property
    def started(self) -> str:
        """When it was started, in UTC: 2026-01-31 12:00."""
        stamp = re.match(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)\d\d", self.path.name)
        if stamp:
            return "{}-{}-{} {}:{}".format(*stamp.groups())
        try:
            at = (self.path / "recipe.yaml").stat().st_mtime
        except OSError:
            return ""
        return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M")

    def value(self, key: str) -> Any:
        """Return a fact, a test metric, or a setting by its path or by the end of it; None if the run has none.

        Raises: VqtkError if several settings of the run end like this.
        """
        if key in FACTS:
            return self._fact(key)
        if key in self.metrics:
            return self.metrics[key]
        if key in TERMS:
            return None
        ends = [path for path in self.recipe if path == key or path.endswith(f".{key}")]
        if len(ends) > 1 and key not in ends:
            raise VqtkError(f"{key} may be {', '.join(sorted(ends)[:6])} in {self.path}. Write more of the path.")
        return self.recipe[key if key in ends else ends[0]] if ends else None

    def _saved(self) -> int | None:
        """Return the updates of the newest checkpoint; None if there is none."""
        numbers = [path.stem.removeprefix("update_") for path in resumable(self.path)]
        return max((int(number) for number in numbers if number.isdecimal()), default=None)

    def _fact(self, key: str) -> Any:
        own: dict[str, Any] = {
            "state": self.state, "started": self.started, "path": str(self.path), "tag": self.labels.get("tags", []),
            "note": self.labels.get("note"), "updates": self.summary.get("updates") or self._saved(),
            "train_s": self.summary.get("train_s"), "name": self.manifest.get("name") or self.path.parent.name,
        }  # fmt: skip
        return own[key] if key in own else self.manifest.get(key)


def _read(path: Path, kind: type[File]) -> dict[str, Any]:
    """Return the values of a file; {} if there is none. Raises: CheckpointError if it is damaged or far too large."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{path}: {kind.what} cannot be read ({error.strerror}).") from None
    if size > MOST_BYTES:
        raise CheckpointError(f"{path}: {kind.what} is damaged: it has {size:,} bytes.")
    return read_file(path, kind)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings and lists by dotted path."""
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def runs_in(folder: Path) -> list[ListedRun]:
    """Return the run at a folder, or all runs below it, by path. Raises: CheckpointError if there is no such folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder. Expected a folder of runs, as runs.")
    found = []
    for place, folders, files in os.walk(folder):
        if "recipe.yaml" in files or "manifest.json" in files:
            found.append(Path(place))
            folders.clear()  # A run holds no other.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return [ListedRun.of(path) for path in found]


# ── filters ──────────────────────────────────────────────────────────────────────────────────────

_FILTER = re.compile(r"([\w.-]+?)(!=|<=|>=|=|<|>|~)(.*)", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """A condition on runs: a key, one of = != < <= > >= ~ (contains), and a value."""

    key: str
    relation: str
    value: str

    @classmethod
    def of(cls, text: str) -> Filter | None:
        """Return the filter that a text writes, as `lr>1e-3`; None if it writes none."""
        found = _FILTER.fullmatch(text)
        return cls(*found.groups()) if found else None

    def holds(self, run: ListedRun) -> bool:
        """Return whether it holds for a run; a run without such a value is never ordered. Raises: VqtkError."""
        value = run.value(self.key)
        if self.relation in _ORDERS:
            return self._is_ordered(value)
        if self.relation == "~":
            return any(self.value.lower() in str(one).lower() for one in _each(value))
        return any(_same(one, self.value) for one in _each(value)) == (self.relation == "=")

    def _is_ordered(self, value: Any) -> bool:
        wanted = _number(self.value)
        if self.key == "started":
            return bool(value) and _ORDERS[self.relation](value, self.value)
        if wanted is None:
            raise VqtkError(f"{self.key}{self.relation}{self.value}: expected a number after {self.relation}.")
        known = _number(value)
        return known is not None and _ORDERS[self.relation](known, wanted)


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _same(value: Any, text: str) -> bool:
    one, other = _number(value), _number(text)
    if one is not None and other is not None:
        return one == other
    if value is None or isinstance(value, bool):
        return text == {None: "null", True: "true", False: "false"}[value]
    return str(value) == text


def select(runs: Sequence[ListedRun], filters: Sequence[Filter], *, sort: str | None = None) -> list[ListedRun]:
    """Return the runs for which all filters hold, sorted by a value: falling if its key has a `-` before it.

    Raises: VqtkError if no run has a value of a key, or if a state is none.
    """
    falling = bool(sort) and str(sort).startswith("-")
    key = str(sort).removeprefix("-") if sort else "started"
    for one in filters:
        if one.key == "state" and one.relation in ("=", "!=") and one.value not in STATES:
            raise VqtkError(
                f"state{one.relation}{one.value}: there is no such state. Expected one of {', '.join(STATES)}."
            )
    for name in [*(one.key for one in filters), key]:
        _require_known(name, runs)
    chosen = [run for run in runs if all(one.holds(run) for one in filters)]
    having = [run for run in chosen if run.value(key) not in (None, "")]
    others = [run for run in chosen if run.value(key) in (None, "")]
    numbers = all(_number(run.value(key)) is not None for run in having)
    having.sort(key=lambda run: _number(run.value(key)) if numbers else str(run.value(key)), reverse=falling)  # type: ignore[arg-type, return-value]
    return [*having, *others]


def _require_known(key: str, runs: Sequence[ListedRun]) -> None:
    if key in FACTS or not runs or any(run.value(key) is not None for run in runs):
        return
    if any(path == key or path.endswith(f".{key}") for run in runs for path in run.recipe):  # It is null everywhere.
        return
    ends = {path.rpartition(".")[2] for run in runs for path in run.recipe if not path[-1].isdigit()}
    known = sorted({*FACTS, *(name for run in runs for name in run.metrics), *ends})
    raise VqtkError(
        f"{key}: no run has a value of this name. {nearest(key, known)}Expected one of {', '.join(FACTS)}, a test "
        "metric such as final, or a setting of the recipe such as train.optimizer.lr or lr."
    )


# ── changes ──────────────────────────────────────────────────────────────────────────────────────


def label(path: Path, *, add: Sequence[str] = (), remove: Sequence[str] = (), note: str | None = None) -> list[str]:
    """Add and remove tags of a run, and set its note if one is given (empty removes it); return its tags.

    Raises: CheckpointError if it is not a run, VqtkError if the tags cannot be written.
    """
    require_run(path)
    for tag in add:
        if not re.fullmatch(r"[\w][\w.+-]{0,63}", tag):
            raise VqtkError(f"{tag!r} cannot be a tag: expected at most 64 letters, digits, `_`, `-`, `.` and `+`.")
    kept = _read(path / LABELS, LabelsFile)
    tags = [tag for tag in dict.fromkeys([*kept.get("tags", []), *add]) if tag not in remove]
    labels = {**kept, "tags": tags, **({} if note is None else {"note": note})}
    try:
        write_text(path / LABELS, json.dumps(labels, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise VqtkError(f"{path / LABELS}: it cannot be written ({error.strerror or error}).") from None
    return tags


def require_run(path: Path) -> None:
    """Raise CheckpointError if a path is not a run directory that vqtk wrote; its manifest may be damaged."""
    missing = [name for name in ("recipe.yaml", "manifest.json") if not (path / name).is_file()]
    if missing or path.is_symlink():
        reason = "it is a link" if path.is_symlink() else f"it has no {missing[0]}"
        raise CheckpointError(f"{path}: not a run directory: {reason}. Expected a path as `vqtk runs` lists it.")


def delete(path: Path) -> None:
    """Delete a run directory.

    Raises: CheckpointError if it is not a run, or holds what no run does; VqtkError if a process trains it, or if it
    cannot be deleted.
    """
    require_run(path)
    manifest = _manifest(path)
    others = [place for place, _, files in os.walk(path) if "recipe.yaml" in files and Path(place) != path]
    if others or ".git" in os.listdir(path) or not (manifest is None or manifest.keys() & {"recipe_sha256", "data"}):
        reason = f"{others[0]} is another run" if others else "vqtk did not write its manifest.json, or it holds a .git"
        raise CheckpointError(f"{path}: not deleted: {reason}. Delete it yourself if it is not needed.")
    try:
        with locked(path / RUN, what=f"The run {path}"):
            apart = set_apart(path)  # At once, so that a delete that is interrupted leaves no half of a run.
        shutil.rmtree(apart)
    except OSError as error:
        raise VqtkError(f"{path}: it cannot be deleted ({error.strerror or error}).") from None


def _manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest, or None if it is damaged; then only a run's checkpoints show that it was one."""
    try:
        return _read(path / "manifest.json", ManifestFile)
    except CheckpointError:
        return None if (path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file() else {}
