"""The recipe: what a run trains, on which data, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_origin

from annotated_types import Ge, Gt, Lt, doc
from pydantic import StringConstraints

from vqtk.augmentations import Augmentation
from vqtk.callbacks import Tracker
from vqtk.errors import RecipeError, nearest
from vqtk.nn.types import Count, CountTo1000, Positive
from vqtk.plugin.loading import Plugin, loaded_plugins, used_plugins
from vqtk.recipe.merge import gather, merge, overridden
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.schema import INVALID, Chosen, Scope, check_written_out, parse
from vqtk.recipe.show import inline
from vqtk.recipe.signature import parameters, setting_path
from vqtk.registry import (
    CallbackFactory,
    DatasetFactory,
    MetricFactory,
    ModelFactory,
    ObjectiveFactory,
    OptimizerFactory,
    RevivalFactory,
    ScheduleFactory,
)

FolderName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=200),
    doc("a valid folder name: at most 200 letters, digits, `_`, `-`, `.` and `+`"),
]

BESIDE = {"changes results": False}
"""Marks a setting that changes results at most by rounding: how updates are computed, and when to measure or draw.

`precision` is not marked, because it changes what a model learns; nor are `callbacks`, which may end a run.
"""


@dataclass(frozen=True)
class Train:
    """How a model is trained.

    - `init` is where the biases of the options start: at zero (random, as the other weights are), or at the centres of
      a residual K-means of the training examples (kmeans), of the first stage or of all, by `model.stage_biases`.
    - `revive` is what happens to options that training chooses rarely or never; null: nothing.
    - `clip_value` limits each value of the gradient of an update, and `clip_norm` then the norm of the whole gradient.
    - `ema` is the decay of an exponential moving average of the weights, which evaluations, images and saved weights
      use instead of those that are trained.
    - `accumulate` is the number of batches in an update; their gradients are summed.
    - `micro_batch` splits each batch into parts of this size to save memory, and changes nothing else.
    - `gradient_checkpointing` recomputes activations in the backward pass to save memory: those of every stage (true),
      of all but the last few (their number), of none (false), or of as few as the device's memory allows (auto).
    - `precision` is the number format of the networks; losses and sums are always float32.
    - `compile` compiles the stages by inductor, and captures updates as a CUDA graph; auto does what pays off for the
      length of the run.
    - `shard` lets several processes hold the weights of the refiners, their gradients and the optimiser's moments in
      parts, for refiners that are too large for one device. With one process it changes nothing.
    - `evaluate_every` is the number of updates between evaluations, which are on a fixed subset of `evaluate_items`
      test examples. The last update is followed by one on `final_items` of them, by default the whole test split.
    - `metrics` are measured at every evaluation, besides those of the kind of data; null: no others.
    - `picture_items` is the number of test examples that images show; they show twice as many samples.
    - `callbacks` follow the run, and may end it. `track` are those that only record it in other tools.
    """

    updates: Count
    objective: ObjectiveFactory
    optimizer: OptimizerFactory
    schedule: ScheduleFactory
    init: Literal["random", "kmeans"] = "random"
    revive: RevivalFactory | None = None
    clip_value: Positive | None = None
    clip_norm: Positive | None = None
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    accumulate: Count = 1
    micro_batch: Count | None = field(default=None, metadata=BESIDE)
    gradient_checkpointing: bool | Count | Literal["auto"] = field(default="auto", metadata=BESIDE)
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    compile: Literal["auto", "off", "inductor", "graph", "inductor+graph"] = field(default="auto", metadata=BESIDE)
    shard: bool = field(default=False, metadata=BESIDE)
    evaluate_every: Count = field(default=200, metadata=BESIDE)
    evaluate_items: Count = field(default=500, metadata=BESIDE)
    final_items: Count | None = None
    metrics: list[MetricFactory] | None = field(default=None, metadata=BESIDE)
    checkpoint_minutes: Positive = field(default=5.0, metadata=BESIDE)
    picture_minutes: Positive = field(default=5.0, metadata=BESIDE)
    picture_items: CountTo1000 = field(default=32, metadata=BESIDE)
    callbacks: list[CallbackFactory] = field(default_factory=list)
    track: list[CallbackFactory] = field(default_factory=list, metadata=BESIDE)


@dataclass(frozen=True)
class _Sections:
    """The keys of a recipe."""

    name: FolderName
    data: DatasetFactory
    model: ModelFactory
    train: Train
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    `node` is the resolved tree with every default, and with the origin of every value. `varies` are the recipes that
    it is a variant of: the one that it extends, and its own file if overrides were given.
    """

    name: str
    seed: int
    data: Chosen
    model: Chosen
    train: Train
    node: Node
    plugins: tuple[Plugin, ...]
    varies: tuple[Path, ...] = ()

    def __deepcopy__(self, memo: Any) -> Recipe:
        return self  # It is never changed, and copies of a model share it.

    @property
    def batch(self) -> int:
        """The number of examples in a batch."""
        return self.data.common["batch"]

    @property
    def validation(self) -> int:
        """The number of training examples that are held out, for evaluations during training."""
        return self.data.common["validation"]

    def augmentations(self) -> list[Augmentation]:
        """Return the augmentations of the training examples."""
        return [chosen() for chosen in self.data.common["augment"]]

    @property
    def examples_per_update(self) -> int:
        """Examples that one update trains on."""
        return self.batch * self.train.accumulate

    @property
    def loss(self) -> str | None:
        """The name of the model's loss; None if its settings have no loss."""
        chosen = self.model.settings.get("loss")
        return chosen.entry.name if isinstance(chosen, Chosen) else None

    def plain(self) -> dict[str, Any]:
        """Return the resolved recipe, without its plugins, as plain values, which `from_plain` reads again."""
        return self.node.plain()

    def of_variant(self) -> dict[str, Any]:
        """Return the plain recipe without `name` and `seed`: what makes a variant."""
        return {key: value for key, value in self.plain().items() if key not in ("name", "seed")}

    def of_consequence(self) -> dict[str, Any]:
        """Return the plain recipe without `name`, `seed` and the settings of `Train` that change no result.

        Runs with equal values here are runs of one variant.
        """
        plain = self.of_variant()
        marked = {one.name for one in fields(Train) if not one.metadata.get("changes results", True)}
        return {**plain, "train": {key: value for key, value in plain["train"].items() if key not in marked}}


def load_recipe(
    path: str | Path, overrides: list[str] | tuple[str, ...] = (), *, plugins: Sequence[Path] = ()
) -> Recipe:
    """Read, merge and check a recipe; `plugins` are loaded besides those that it names.

    Raises: RecipeError that gives, for every problem at once, file, line, dotted path and what was expected.
    """
    gathered = gather(Path(path), list(overrides))
    itself = (Path(path),) if overrides else ()
    extended = (gathered.extends,) if gathered.extends else ()
    files = list(dict.fromkeys([*plugins, *gathered.plugins]))
    return replace(_checked(gathered.node, files), varies=(*itself, *extended))


def setting_called(name: str) -> str | None:
    """Return the path of the setting that a name most likely means, as in `lr`: train.optimizer.lr; None if none is."""
    return name if name in parameters(_Sections) else setting_path(name, _Sections)


def require_overrides(function: Callable[..., Any], others: dict[str, Any]) -> None:
    """Raise RecipeError if a function that takes overrides was called with other arguments, such as `seed=1`."""
    if not others:
        return
    name, value = next(iter(others.items()))
    place, known = setting_called(name), [one for one in signature(function).parameters if one != "others"]
    if place is None:
        advice = f"{nearest(name, known)}Its arguments are {', '.join(known)}."
    else:
        hint = parameters(Train)[name].hint if place == f"train.{name}" else None
        value = [value] if get_origin(hint) is list and isinstance(value, str) else value
        exact = place.rpartition(".")[2] == name and isinstance(value, (str, int, float, list))
        written = f"{place}={inline(Node.of(value, '')) if exact else '…'}"
        advice = f'Settings of the recipe are given as overrides, by their paths and in quotes: "{written}".'
    raise RecipeError(f"vqtk.{function.__name__}: there is no argument {name!r}. {advice}")


def from_plain(values: dict[str, Any], origin: str, *, plugins: Sequence[Path] = ()) -> Recipe:
    """Return the recipe of resolved plain values, such as a weights file holds. Raises: RecipeError."""
    return _checked(Node.of(values, origin), plugins)


def with_data(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with changed data settings: `path=photos`, or `name=svhn` for another data set.

    Raises: RecipeError.
    """
    node = recipe.node
    for setting in settings:
        node = overridden(node, f"data.{setting}")
    node = merge(Node({"data": Node({"batch": Node(recipe.batch, "")}, "")}, ""), node)
    return _checked(node, [plugin.path for plugin in recipe.plugins])


def _checked(node: Node, plugins: Sequence[Path]) -> Recipe:
    problems = Problems()
    check_written_out(node)
    with loaded_plugins(plugins) as named:
        sections = parse(node, _Sections, "", Scope(problems, root=_Sections))
    problems.raise_any()
    assert sections is not INVALID
    _check_tracking(sections.train)
    check_written_out(
        node
    )  # Again, with the defaults: a run stores these as well, and must be able to read its recipe.
    by_content = {plugin.sha256: plugin for plugin in [*named, *used_plugins()]}
    return Recipe(
        sections.name, sections.seed, sections.data, sections.model, sections.train, node, tuple(by_content.values())
    )


def _check_tracking(train: Train) -> None:
    """Raise RecipeError if a callback under `train.track` is no tracker, or a tracker is under `train.callbacks`."""
    for chosen in cast(list[Chosen], train.track):
        if not issubclass(chosen.entry.component, Tracker):
            raise RecipeError(
                f"{chosen.where}: {chosen.entry.name!r} is a callback but not a tracker, so it may change results. "
                "Name it under train.callbacks."
            )
    for chosen in cast(list[Chosen], train.callbacks):
        if issubclass(chosen.entry.component, Tracker):
            raise RecipeError(
                f"{chosen.where}: {chosen.entry.name!r} is a tracker, which changes no result. Name it under "
                "train.track, so that it makes no other variant."
            )
