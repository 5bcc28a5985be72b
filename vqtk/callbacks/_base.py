"""The base class of callbacks, and what their methods are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqtk.models import Model
    from vqtk.recipe.recipe import Recipe


@dataclass(frozen=True)
class Started:
    """A run that begins, or is resumed after `done` updates.

    Arguments:
        path: the run directory.
        recipe: the recipe; `recipe.plain()` returns all settings.
        manifest: the facts of the run, as in `manifest.json`.
        model: the model in training; its weights change with every update.
        done: the number of updates done before.
        say: shows a line to the user.
    """

    path: Path
    recipe: Recipe
    manifest: dict[str, Any]
    model: Model
    done: int
    say: Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """The progress of a run after an update; `row` holds the newest training metrics, and is empty at first."""

    done: int
    updates: int
    row: dict[str, float]
    examples_per_s: float


class Callback:
    """Follows a run; methods do nothing unless overridden. Set `stop` to end the run after the current update."""

    stop: bool = False

    def on_start(self, run: Started) -> None:
        """Called once, before the first update of a new or resumed run."""

    def on_update(self, progress: Progress) -> None:
        """Called after every update."""

    def on_evaluation_due(self, update: int) -> None:
        """Called every `train.evaluate_every` updates, except after the last."""

    def on_pictures_due(self, update: int) -> None:
        """Called a minute after the start, then every `train.picture_minutes`."""

    def on_checkpoint_due(self, update: int) -> None:
        """Called every `train.checkpoint_minutes`."""

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        """Called when test examples have been evaluated; `row` holds their metrics."""

    def on_usage(self, update: int, usage: list[list[int]]) -> None:
        """Called after `on_evaluation`; `usage` (s, k) counts how often they use each option of each stage."""

    def on_images(self, update: int, files: dict[str, Path]) -> None:
        """Called when images have been written: a .png or .txt file for each of `samples`, `reconstructions`, …"""

    def on_message(self, line: str) -> None:
        """Called with a line for the user."""

    def on_end(self, finished: bool) -> None:
        """Called once at the end, also after a failure; `finished` says whether all updates are done."""
