"""Weights & Biases."""

from typing import Any, Literal

import numpy as np

from vqtk.callbacks._base import Started
from vqtk.callbacks._tracker import Tracker, binned, require_installed
from vqtk.registry import callbacks


@callbacks.register("wandb")
class WandB(Tracker):
    """Record a run for Weights & Biases, in the folder `wandb` of the run directory (pip install vqtk[track]).

    By default nothing leaves the machine: `wandb sync RUN/wandb/offline-*` uploads the record. `mode: online` uploads
    it during training, after `wandb login`. `project` is by default the recipe's name.
    """

    def __init__(self, *, mode: Literal["offline", "online"] = "offline", project: str | None = None):
        super().__init__()
        self.mode, self.project = mode, project
        require_installed("wandb", "wandb")

    def open(self, run: Started) -> None:
        """Open a record; that of a resumed run has the same ID, which its folder's name ends with."""
        import wandb

        self._wandb: Any = wandb
        folders = sorted((run.path / "wandb").glob("*run-*-*"))
        self._run = self._wandb.init(
            project=self.project or run.recipe.name,
            name=run.path.name,
            id=folders[0].name.rpartition("-")[2] if folders else None,
            resume="allow" if folders else None,
            dir=str(run.path),
            mode=self.mode,
            config=run.recipe.plain(),
            settings=self._wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )

    def scalars(self, update: int, values: dict[str, float]) -> None:
        """Record numbers."""
        self._run.log(values, step=update)

    def image(self, update: int, name: str, pixels: np.ndarray) -> None:
        """Record an image."""
        self._run.log({name: self._wandb.Image(pixels)}, step=update)

    def text(self, update: int, name: str, text: str) -> None:
        """Record text as a table with one row."""
        self._run.log({name: self._wandb.Table(columns=["text"], data=[[text]])}, step=update)

    def histogram(self, update: int, name: str, counts: list[int]) -> None:
        """Record a histogram."""
        self._run.log({name: self._wandb.Histogram(np_histogram=binned(counts))}, step=update)

    def close(self) -> None:
        """Write the rest, and upload it if online."""
        self._run.finish()
