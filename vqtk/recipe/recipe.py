"""The recipe: what a run trains, on what, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len, Lt, doc
from pydantic import StringConstraints

from vqtk.nn.types import Count, CountTo1000, NonNegative, Positive, Whole
from vqtk.plugin.loading import Plugin, loaded_plugins, used_plugins
from vqtk.recipe.merge import gather, merge, overridden
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.schema import INVALID, Chosen, Scope, check_written_out, parse
from vqtk.registry import DatasetFactory, ModelFactory, ObjectiveFactory

FolderName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=200),
    doc("a name that a folder can have, of at most 200 letters, digits, `_`, `-`, `.` and `+`"),
]
Betas = Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2), doc("a list of two numbers ≥ 0 and < 1")]


BESIDE = {"changes results": False}
"""Marks a setting that changes no result but for rounding: how an update is computed, what is measured or shown when.

`precision` is none of these: it changes what a model learns.
"""


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser, and its settings."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    betas: Betas = field(default_factory=lambda: [0.9, 0.99])
    eps: Positive = 1e-5
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes from `optimizer.lr` to `final` over the updates, after `warmup` of them."""

    name: Literal["linear", "cosine", "constant"] = "constant"
    final: NonNegative = 0.0
    warmup: Whole = 0


@dataclass(frozen=True)
class Train:
    """How a model is trained.

    An update sums the gradients of `accumulate` batches. `micro_batch` splits each batch to save memory
    and changes nothing else. `gradient_checkpointing` computes activations again in the backward pass: of every stage
    (true), of all but as many as a number says, of none (false), or of as few as the device's memory allows (auto).
    `precision` is that of the networks; losses and sums are float32. `compile` says whether stages are compiled by
    inductor, and updates captured as a CUDA graph; auto takes what a run is long enough for.
    Evaluation is on `evaluate_items` fixed test items, every `evaluate_every` updates and at the end; then on
    `final_items` of them, by default on the whole test split.
    Pictures show `picture_items` test items, and twice as many samples.
    """

    updates: Count
    objective: ObjectiveFactory
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    accumulate: Count = 1
    micro_batch: Count | None = field(default=None, metadata=BESIDE)
    gradient_checkpointing: bool | Count | Literal["auto"] = field(default="auto", metadata=BESIDE)
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    compile: Literal["auto", "off", "inductor", "graph", "inductor+graph"] = field(default="auto", metadata=BESIDE)
    evaluate_every: Count = field(default=200, metadata=BESIDE)
    evaluate_items: Count = field(default=500, metadata=BESIDE)
    final_items: Count | None = None
    checkpoint_minutes: Positive = field(default=5.0, metadata=BESIDE)
    picture_minutes: Positive = field(default=5.0, metadata=BESIDE)
    picture_items: CountTo1000 = field(default=32, metadata=BESIDE)


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
    """A checked recipe. `node` is the resolved tree, with every default and where each value came from.

    `varies` are the recipes that it is a variant of: what it extends, and itself without the overrides given.
    """

    name: str
    seed: int
    data: Chosen
    model: Chosen
    train: Train
    node: Node
    plugins: tuple[Plugin, ...]
    varies: tuple[Path, ...] = ()

    @property
    def batch(self) -> int:
        """Examples of one batch."""
        return self.data.common["batch"]

    @property
    def examples_per_update(self) -> int:
        """Examples that one update trains on."""
        return self.batch * self.train.accumulate

    @property
    def loss(self) -> str | None:
        """The name of the model's loss; None if its settings name none."""
        chosen = self.model.settings.get("loss")
        return chosen.entry.name if isinstance(chosen, Chosen) else None

    def plain(self) -> dict[str, Any]:
        """Return the resolved recipe as plain values, which `from_plain` reads again; its plugins stand beside it."""
        return self.node.plain()

    def of_variant(self) -> dict[str, Any]:
        """Return the plain recipe without `name` and `seed`: what makes a variant."""
        return {key: value for key, value in self.plain().items() if key not in ("name", "seed")}

    def of_consequence(self) -> dict[str, Any]:
        """Return `of_variant` without the settings of `Train` that are marked to change no result.

        Runs of which this is the same are of one variant.
        """
        plain = self.of_variant()
        marked = {one.name for one in fields(Train) if not one.metadata.get("changes results", True)}
        return {**plain, "train": {key: value for key, value in plain["train"].items() if key not in marked}}


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read, merge and check a recipe.

    Raises: RecipeError with file, line, dotted path and what was expected, for all that is wrong at once.
    """
    gathered = gather(Path(path), list(overrides))
    itself = (Path(path),) if overrides else ()
    extended = (gathered.extends,) if gathered.extends else ()
    return replace(_checked(gathered.node, gathered.plugins), varies=(*itself, *extended))


def from_plain(values: dict[str, Any], origin: str, *, plugins: Sequence[Path] = ()) -> Recipe:
    """Return the recipe of a resolved plain tree, such as a weights file carries. Raises: RecipeError."""
    return _checked(Node.of(values, origin), plugins)


def with_data(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with other data: settings such as `path=photos`, or `name=svhn` for another data set.

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
        sections = parse(node, _Sections, "", Scope(problems))
    problems.raise_any()
    assert sections is not INVALID
    check_written_out(node)  # With its defaults, as a run keeps it: what is taken now can be read again.
    by_content = {plugin.sha256: plugin for plugin in [*named, *used_plugins()]}
    return Recipe(
        sections.name, sections.seed, sections.data, sections.model, sections.train, node, tuple(by_content.values())
    )
