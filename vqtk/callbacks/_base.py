"""The base class of callbacks, and what their methods are called with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqtk.errors import VqtkError, VqtkWarning, nearest

if TYPE_CHECKING:
    from vqtk.models import Model
    from vqtk.recipe.recipe import Recipe


BESIDES = ("items", "of", "validation")
"""What the row of an evaluation holds besides metrics: the number of examples, of how many, and which split."""


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


class Row(dict[str, Any]):
    """Metrics by name. A `get` of one that is not among them warns, once for each name; an empty row never does.

    Arguments:
        values: the metrics.
        what: what they describe, such as `training`.
        before: the row that this one replaces, whose warnings are not repeated.
    """

    def __init__(self, values: dict[str, Any] | None = None, *, what: str = "training", before: Row | None = None):
        super().__init__(values or {})
        self._what = what
        self._said: set[str] = set() if before is None else before._said

    def get(self, key: str, default: Any = None) -> Any:
        """Return a metric, or `default` if it is not measured."""
        if self and key not in (*self, *BESIDES, *self._said):
            self._said.add(key)
            known = [name for name in self if name not in BESIDES]
            warnings.warn(
                f"a callback asks for {key!r}, which is not among the metrics of {self._what}. "
                f"{nearest(key, known)}They are {', '.join(known)}.",
                VqtkWarning,
                stacklevel=2,
            )
        return super().get(key, default)


@dataclass(frozen=True)
class Progress:
    """The progress of a run after an update; `row` holds the newest training metrics, and is empty at first."""

    done: int
    updates: int
    row: dict[str, float]
    examples_per_s: float


class Callback:
    """Follows a run; methods do nothing unless overridden. Set `stop` to end the run after the current update.

    Raises: VqtkError, when a class is defined, if one of its methods begins with `on_` and is no event.
    """

    stop: bool = False

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        events = [name for name in vars(Callback) if name.startswith("on_")]
        for name, value in vars(cls).items():
            if name.startswith("on_") and callable(value) and name not in events:
                raise VqtkError(
                    f"{cls.__name__}.{name}: no such event, so it would never be called. {nearest(name, events)}The "
                    f"events are {', '.join(events)}. Give a method of your own a name that does not begin with on_."
                )

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
