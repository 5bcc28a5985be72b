"""A callback: follows a run, and may end it.

In a recipe: `plugins: [example.py]`, and `callbacks: [{name: example, metric: final, below: 0.3}]` in `train`.
"""

from vqtk.callbacks import Callback, Progress
from vqtk.registry import callbacks


@callbacks.register("example")
class Example(Callback):
    """End a run, with a checkpoint, when a training metric such as `choice` is below a limit."""

    # A recipe may set the parameters after the `*`.
    def __init__(self, *, metric: str = "choice", below: float = 0.0):
        self.metric, self.below = metric, below

    def on_update(self, progress: Progress) -> None:
        """Look at the newest metrics: none before the first are logged, and a warning if `metric` is not among them."""
        self.stop = progress.row.get(self.metric, self.below) < self.below
