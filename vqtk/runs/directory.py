"""The run directory: everything that a run writes, and all that later commands need."""

from __future__ import annotations

import errno
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vqtk.errors import CheckpointError, VqtkError
from vqtk.files import file_sha256, new_folder, sweep, write_text
from vqtk.io.run_files import (
    ManifestFile,
    SummaryFile,
    read_file,
    read_metrics,
    read_rows,
    resumable,
    watched_of,
)
from vqtk.io.weights import nearest_run
from vqtk.plugin.sources import check_copies, keep
from vqtk.recipe.node import Node, walk
from vqtk.recipe.recipe import Recipe, from_plain, load_recipe
from vqtk.recipe.show import as_yaml
from vqtk.runs.checkpoints import (
    checkpoint_at,
    mark_damaged,
    open_checkpoint,
    remove_checkpoint,
    sweep_states,
    write_checkpoint,
    write_weights,
)
from vqtk.training.loop import Trainer

KEPT = 2
"""Checkpoints to keep: the newest, and one to fall back on."""


class RunDirectory:
    """The files of one run.

    This class reads and writes `recipe.yaml`, `manifest.json`, `metrics.jsonl`, `evaluation.json`, `summary.json`,
    `checkpoints/`, `images/`, and `plugins/` if the recipe names any. docs/runs.md lists all files.
    """

    def __init__(self, path: Path):
        self.path = path
        self.images = path / "images"

    @classmethod
    def create(cls, parent: Path, recipe: Recipe, facts: dict[str, Any] | None = None) -> RunDirectory:
        """Make `parent/<name>/<time>/` with the resolved recipe, copies of its plugins, and `facts` as the manifest.

        The directory appears complete or not at all. Temporary folders of killed processes are removed.

        Raises: VqtkError if it cannot be written.
        """
        runs, stamp = parent / recipe.name, datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        sweep(runs, deep=False)
        try:
            with new_folder(runs) as temporary:
                _fill(temporary, recipe)
                if facts is not None:
                    cls(temporary).write_manifest({"directory": str((runs / stamp).resolve()), **facts})
                return cls(_renamed(temporary, runs, stamp))
        except OSError as error:
            raise VqtkError(_unwritable(runs / stamp, error)) from error

    @classmethod
    def create_at(cls, path: Path, recipe: Recipe) -> RunDirectory:
        """Make a run directory at a path that holds no run yet. Raises: VqtkError."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / "recipe.yaml").exists():
                raise FileExistsError("there is a run in it")
            _fill(path, recipe)
        except OSError as error:
            raise VqtkError(_unwritable(path, error)) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunDirectory, Recipe]:
        """Return an existing run and its recipe. Raises: CheckpointError if the path is not a run directory."""
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such run directory. Expected a path like runs/mnist/20260101-120000.")
        if not (path / "recipe.yaml").is_file() or not (path / "manifest.json").is_file():
            raise CheckpointError(
                f"{path}: not a run directory: it needs a recipe.yaml and a manifest.json. {nearest_run(path)}"
                "Expected a path like runs/mnist/20260101-120000."
            )
        run = cls(path)
        if not isinstance(run.manifest().get("data"), dict):
            raise CheckpointError(f"{path / 'manifest.json'}: the manifest is damaged: no `data`. {run._restart()}")
        check_copies(run.manifest().get("plugins", []), path)
        return run, load_recipe(path / "recipe.yaml")

    @classmethod
    def to_repeat(cls, path: Path) -> RunDirectory:
        """Return an existing run, to repeat it. Raises: CheckpointError if its recipe or plugins have changed."""
        run, _ = cls.open(path)
        run.check_recipe()
        return run

    def identity(self) -> dict[str, str]:
        """Return what names the run in the manifest of one that repeats it: its path and its recipe's SHA-256."""
        return {"path": str(self.path.resolve()), "recipe_sha256": file_sha256(self.path / "recipe.yaml")}

    # ── facts ────────────────────────────────────────────────────────────────────────────────────

    def write_manifest(self, facts: dict[str, Any]) -> None:
        """Add facts to the manifest, replacing those of the same name; the first call adds the directory and recipe."""
        self._write_json("manifest.json", {**(self.manifest() or self._own_facts()), **facts})

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, empty if it is not written yet. Raises: CheckpointError if it is damaged."""
        path = self.path / "manifest.json"
        if not path.exists():
            return {}
        try:
            return read_file(path, ManifestFile)
        except CheckpointError as error:
            raise CheckpointError(f"{error} {self._restart()}") from None

    def check_recipe(self) -> None:
        """Raise CheckpointError if recipe.yaml has changed since the run was started, if its checksum is recorded."""
        path, recorded = self.path / "recipe.yaml", self.manifest().get("recipe_sha256")
        if recorded and file_sha256(path) != recorded:
            raise CheckpointError(
                f"{path}: it has changed since the run was started (its SHA-256 differs), so it may not be the recipe "
                "that the run was trained by. Undo the change."
            )

    def _own_facts(self) -> dict[str, str]:
        """Return the facts of a manifest about the run directory itself."""
        return {"directory": str(self.path.resolve()), "recipe_sha256": file_sha256(self.path / "recipe.yaml")}

    def _restart(self, manifest: dict[str, Any] | None = None) -> str:
        """Return the advice to start the run again, from the same weights if the manifest names any."""
        begun = (manifest or {}).get("from")
        option = f"--from {begun['path']} " if begun else ""
        return f"Start the run again: vqtk run {option}{self.path / 'recipe.yaml'}."

    # ── results ──────────────────────────────────────────────────────────────────────────────────

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Write the newest test metrics: `update`, `items`, `row`, `stages` and `usage`."""
        self._write_json("evaluation.json", evaluation, indent=None)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the results of the run."""
        self._write_json("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Return the results of a finished run. Raises: CheckpointError if there is no complete summary."""
        return read_file(self.path / "summary.json", SummaryFile)

    def _write_json(self, name: str, values: dict[str, Any], *, indent: int | None = 2) -> None:
        write_text(self.path / name, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, done: int) -> None:
        """Drop the rows that a run resumed after update `done` will log again: later ones, and the final one."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            logged = path.read_text(encoding="utf-8", errors="replace")
            kept = "".join(line + "\n" for line in logged.splitlines() if _is_kept(line, done))
            if kept != logged:
                write_text(path, kept)

    def has_tested(self, done: int) -> bool:
        """Return whether the metrics contain an evaluation after update `done`."""
        path = self.path / "metrics.jsonl"
        return any(row["update"] == done and watched_of(row) for row in read_metrics(path)[0])

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint and remove all but the newest `KEPT`; return its path.

        An existing weights file of this update is kept: it and the trainer's state could not be replaced in one step.
        If the processes hold the weights in parts, all call this, and the parts are written while training goes on.

        Raises: DivergenceError if a value is not finite, VqtkError if it cannot be written.
        """
        path = checkpoint_at(self.path, trainer)
        if path.exists() and not trainer.held:
            return path
        trainer.check_finite()
        write_checkpoint(path, trainer, self._data_facts(), self._prune)
        return path

    def finish(self, trainer: Trainer) -> None:
        """If weights are held in parts, wait for their checkpoint, and write the weights file; all processes call this.

        Raises: VqtkError if one of them cannot be written.
        """
        if not trainer.held:
            return
        trainer.held.writer.wait()
        write_weights(self.path, trainer, self._data_facts())

    def _data_facts(self) -> dict[str, Any]:
        return {"data_sha256": self.manifest().get("data", {}).get("sha256")}

    def _prune(self) -> None:
        """Remove all checkpoints but the newest `KEPT`."""
        for old in resumable(self.path)[:-KEPT]:
            remove_checkpoint(old)

    def restore(self, trainer: Trainer) -> str | None:
        """Load the newest intact checkpoint; return a line about the damaged ones that were skipped, None without any.

        Raises: CheckpointError if no checkpoint can be read.
        """
        damage: list[str] = []
        skipped: list[Path] = []
        for path in reversed(resumable(self.path)):
            try:
                plain, restore = open_checkpoint(path)
            except CheckpointError as error:
                reason = str(error).partition(". ")[0].rstrip(".")
                damage.append(f"{path.name} is damaged ({reason})")
                skipped.append(path)
                continue
            self._check_same_recipe(path, plain, trainer)
            try:
                restore(trainer)
            except CheckpointError as error:
                raise CheckpointError(f"{error} {self._restart()}") from None
            for damaged in skipped:  # Only now: if no checkpoint can be read, the files stay as they are.
                mark_damaged(damaged)
            return f"{'; '.join(damage)}; went back to update {trainer.done}" if damage else None
        reason = "; ".join(damage) or "the run stopped before its first one"
        restart = self._restart(self.manifest())
        raise CheckpointError(f"{self.path}: no checkpoint to resume from: {reason}. {restart}")

    def _check_same_recipe(self, path: Path, plain: dict[str, Any], trainer: Trainer) -> None:
        """Raise CheckpointError if a checkpoint's recipe is not the trainer's."""
        # Parsing it adds the defaults of settings that are newer than the checkpoint.
        plugins = [plugin.path for plugin in trainer.recipe.plugins]
        recipe = from_plain(plain, str(path), plugins=plugins).plain()
        if recipe != trainer.recipe.plain():
            raise CheckpointError(
                f"{path}: this checkpoint's recipe is not that of {self.path / 'recipe.yaml'}: "
                f"{_difference(recipe, trainer.recipe.plain())}. Undo the change to resume this run, or start "
                f"another from its weights: vqtk run --from {self.path} {self.path / 'recipe.yaml'}."
            )

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────

    def sweep(self) -> None:
        """Remove what killed processes left behind: temporary files, and trainers' states without weights."""
        sweep(self.path)
        sweep_states(self.path)

    def is_gone(self) -> bool:
        """Return whether the directory was removed or moved."""
        return not (self.path / "recipe.yaml").exists()

    def check_there(self) -> None:
        """Raise FileNotFoundError if the directory was removed or moved: writing would create another one."""
        if self.is_gone():
            raise FileNotFoundError(errno.ENOENT, "the run no longer exists", str(self.path))


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path}: the run directory cannot be written ({error.strerror or error}). Choose another with --out."


def _fill(folder: Path, recipe: Recipe) -> None:
    """Write the recipe and its plugins into a folder. Raises: OSError."""
    shutil.rmtree(folder / "plugins", ignore_errors=True)
    write_text(folder / "recipe.yaml", as_yaml(recipe.node, keep(recipe.plugins, folder)))


def _renamed(folder: Path, runs: Path, name: str) -> Path:
    """Rename a folder to `name`, or to the first of `name-1`, `name-2`, … that is free. Raises: OSError."""
    for number in range(10_000):
        path = runs / (name + (f"-{number}" if number else ""))
        if not path.exists():
            try:
                return folder.rename(path)
            except OSError:  # Another run took the name in the meantime.
                if not path.exists():
                    raise
    raise VqtkError(f"{runs}: it has 10,000 runs started in this second. Choose another folder with --out.")


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words the first value that differs between two recipes, given as plain values."""
    (old, new) = ({path: node.value for path, node in walk(Node.of(plain, ""))} for plain in (was, now))
    for path in dict.fromkeys([*old, *new]):
        values = [repr(side[path]) if path in side else "absent" for side in (old, new)]
        if values[0] != values[1] and not isinstance(old.get(path, new.get(path)), (dict, list)):
            return f"{path} was {values[0]}, and is now {values[1]}"
    return "its structure was different"


def _is_kept(line: str, done: int) -> bool:
    """Return whether a line of the metrics stays when a run resumes after update `done`."""
    return any(row["update"] <= done and not row.get("end") for row in read_rows([line]))
