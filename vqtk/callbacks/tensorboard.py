"""TensorBoard."""

import json

import numpy as np

from vqtk.callbacks._base import Started
from vqtk.callbacks._tracker import Tracker, require_installed
from vqtk.registry import callbacks


@callbacks.register("tensorboard")
class TensorBoard(Tracker):
    """Record a run for TensorBoard, in the folder `tensorboard` of the run directory (pip install vqtk[track])."""

    def __init__(self) -> None:
        super().__init__()
        require_installed("tensorboard", "tensorboard")

    def open(self, run: Started) -> None:
        """Open an event file. Those of the updates that are done again are dropped, also after a kill."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=run.done + 1)
        if not run.done:
            self.text(0, "recipe", json.dumps(run.recipe.plain(), indent=2))

    def scalars(self, update: int, values: dict[str, float]) -> None:
        """Record numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def image(self, update: int, name: str, pixels: np.ndarray) -> None:
        """Record an image."""
        self._writer.add_image(name, pixels, update, dataformats="HWC")

    def text(self, update: int, name: str, text: str) -> None:
        """Record text, indented: TensorBoard shows it as Markdown."""
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), update)

    def histogram(self, update: int, name: str, counts: list[int]) -> None:
        """Record a histogram with a bucket for each value."""
        values, weights = np.arange(len(counts)), np.asarray(counts)
        self._writer.add_histogram_raw(
            name,
            min=0,
            max=len(counts) - 1,
            num=int(weights.sum()),
            sum=float((values * weights).sum()),
            sum_squares=float((values**2 * weights).sum()),
            bucket_limits=(values + 0.5).tolist(),
            bucket_counts=counts,
            global_step=update,
        )

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
