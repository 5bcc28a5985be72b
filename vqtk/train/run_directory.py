"""The run directory: everything that a run writes, and all that later commands need."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import vqtk
from vqtk.errors import CheckpointError, VqtkError
from vqtk.io.atomic import replacing, write_text
from vqtk.io.weights import checkpoints, fit, read_weights, save_weights
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.recipe.show import as_yaml
from vqtk.train.trainer import Trainer

KEPT = 2
"""Checkpoints that are kept: the newest, and one to fall back on."""


class RunDirectory:
    """`recipe.yaml`, `manifest.json`, `metrics.jsonl`, `summary.json`, `checkpoints/` and `images/` of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.images = path / "images"

    @classmethod
    def create(cls, parent: Path, recipe: Recipe) -> RunDirectory:
        """Make `parent/<name>/<time>/` with the resolved recipe in it. Raises: VqtkError if it cannot be written."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        base = parent / recipe.name
        path = next(p for n in range(10_000) if not (p := base / (stamp + (f"-{n}" if n else ""))).exists())
        try:
            path.mkdir(parents=True)
            write_text(path / "recipe.yaml", as_yaml(recipe))
        except OSError as error:
            raise VqtkError(f"{path}: the run directory cannot be written ({error}). Choose another with --out.") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunDirectory, Recipe]:
        """Return an existing run and its recipe. Raises: CheckpointError if it is none."""
        if not (path / "recipe.yaml").is_file() or not (path / "manifest.json").is_file():
            raise CheckpointError(
                f"{path}: not a run directory: there is no recipe.yaml and manifest.json in it. "
                "Expected a path like runs/mnist/20260101-120000."
            )
        return cls(path), load_recipe(path / "recipe.yaml")

    # ── facts ────────────────────────────────────────────────────────────────────────────────────

    def write_manifest(self, facts: dict[str, Any]) -> None:
        """Write what the run was made with, facts added or replaced."""
        self._write_json("manifest.json", {**self.manifest(), **facts})

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, empty before it was written. Raises: CheckpointError if it is damaged."""
        path = self.path / "manifest.json"
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: the manifest cannot be read ({error}).") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what the run reached."""
        self._write_json("summary.json", summary)

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        write_text(self.path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, done: int) -> None:
        """Drop what was logged after update `done`, which a resumed run logs again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _update(line) is not None and _update(line) <= done]  # type: ignore[operator]
            write_text(path, "".join(line + "\n" for line in kept))

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────

    def save(self, trainer: Trainer) -> Path:
        """Write weights and the trainer's state; the weights come last, so a checkpoint is whole once they are there."""
        weights = self.path / "checkpoints" / f"update_{trainer.done:08d}.safetensors"
        with replacing(_state_of(weights)) as temporary:
            torch.save(trainer.state(), temporary)
        save_weights(weights, trainer.model, trainer.recipe, update=trainer.done)
        for old in checkpoints(self.path)[:-KEPT]:
            old.unlink()
            _state_of(old).unlink(missing_ok=True)
        return weights

    def restore(self, trainer: Trainer) -> str | None:
        """Take the newest whole checkpoint back; return a line about any that had to be passed over.

        Raises: CheckpointError if none can be read.
        """
        damage: list[str] = []
        for weights in reversed(checkpoints(self.path)):
            try:
                tensors, metadata = read_weights(weights)
                state = torch.load(_state_of(weights), map_location="cpu", weights_only=True)
            except (CheckpointError, OSError, RuntimeError, EOFError, ValueError) as error:
                damage.append(f"{weights.name} is damaged ({str(error).splitlines()[0]})")
                continue
            if metadata["recipe"] != trainer.recipe.plain():
                raise CheckpointError(f"{weights}: this checkpoint belongs to another recipe than {self.path / 'recipe.yaml'}.")
            fit(trainer.model, tensors, weights)
            trainer.restore(state)
            return f"{'; '.join(damage)}; went back to update {trainer.done}" if damage else None
        reason = "; ".join(damage) or "it holds none: it was stopped before its first one"
        raise CheckpointError(f"{self.path}: no checkpoint to resume from: {reason}. Start the run anew.")


def _state_of(weights: Path) -> Path:
    return weights.with_suffix(".trainer.pt")


def _update(line: str) -> int | None:
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return None


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions, hardware and thread count that a run depends on."""
    return {
        "vqtk": vqtk.__version__,
        "git": _git(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "command": ["vqtk", *sys.argv[1:]],
    }


def _git() -> str | None:
    folder = Path(vqtk.__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
