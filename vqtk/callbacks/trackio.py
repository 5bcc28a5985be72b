"""Trackio."""

from hashlib import sha256
from typing import Any

import numpy as np

from vqtk.callbacks._base import Started
from vqtk.callbacks._tracker import Tracker, binned, require_installed
from vqtk.registry import callbacks


@callbacks.register("trackio")
class Trackio(Tracker):
    """Record a run for Trackio, in its database on this machine; `trackio show` opens it (pip install vqtk[track]).

    `project` is by default the recipe's name. The environment variable TRACKIO_DIR sets the folder of the database.
    """

    def __init__(self, *, project: str | None = None):
        super().__init__()
        self.project = project
        require_installed("trackio", "trackio")

    def open(self, run: Started) -> None:
        """Open a record under the name of the run's directory, and a few digits that distinguish equal names."""
        import trackio

        self._trackio: Any = trackio
        digits = sha256(str(run.manifest.get("directory", run.path)).encode()).hexdigest()[:6]
        self._run = self._trackio.init(
            project=self.project or run.recipe.name,
            name=f"{run.path.name}-{digits}",
            config=run.recipe.plain(),
            resume="allow" if run.done else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def scalars(self, update: int, values: dict[str, float]) -> None:
        """Record numbers."""
        self._run.log(values, step=update)

    def image(self, update: int, name: str, pixels: np.ndarray) -> None:
        """Record an image."""
        self._run.log({name: self._trackio.Image(pixels)}, step=update)

    def text(self, update: int, name: str, text: str) -> None:
        """Record text, indented: Trackio shows it as Markdown."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._run.log({name: self._trackio.Markdown(indented)}, step=update)

    def histogram(self, update: int, name: str, counts: list[int]) -> None:
        """Record a histogram."""
        self._run.log({name: self._trackio.Histogram(np_histogram=binned(counts))}, step=update)

    def close(self) -> None:
        """Write the rest."""
        self._trackio.finish()
