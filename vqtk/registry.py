"""Registries: names for swappable components, whose signatures are the recipe's schema.

A component is a class. The toolkit supplies its positional parameters; a recipe may set its keyword-only ones. A
parameter annotated with a factory type below (`BlockFactory`, `ConditionFactory`, …) takes a nested spec in the recipe
and receives a factory: called with what the toolkit supplies, it returns the component.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from vqtk.errors import RegistryError, nearest, on_one_line

Component = TypeVar("Component", bound=type)
Settings = dict[str, Any]
"""A component's settings in a recipe, as plain values."""


@dataclass(frozen=True)
class Entry:
    """One registered component, and what its contract checks need to know of it.

    Arguments:
        name: what a recipe calls it.
        component: its class.
        origin: the file and line that define it.
        example: settings that the contract checks build it with.
        data: the data that they build it for; None for images of faces.
        dimensions: the numbers of spatial dimensions that it works in.
        staged: whether its output depends on the stage.
    """

    name: str
    component: type
    origin: str
    example: Settings = field(default_factory=dict)
    data: Settings | None = None
    dimensions: tuple[int, ...] = (1, 2, 3)
    staged: bool = False

    @property
    def purpose(self) -> str:
        """The first line of the component's docstring."""
        return (inspect.getdoc(self.component) or "").splitlines()[0]


class Registry:
    """Components of one kind by name; built-in ones are imported at the first request.

    Arguments:
        kind: what a component of this registry is called, such as "block".
        package: the package of the built-in components, one module for each.
        supplied: the names of the positional parameters, which the toolkit supplies.
        default: the component that a spec without a name chooses.
        common: keys that every spec takes besides its component's own, each with its type and default.
    """

    def __init__(
        self,
        kind: str,
        *,
        package: str,
        supplied: tuple[str, ...],
        default: str | None = None,
        common: dict[str, tuple[Any, Any]] | None = None,
    ):
        self.kind = kind
        self.package = package
        self.supplied = supplied
        self.default = default
        self.common = common or {}
        self._entries: dict[str, Entry] = {}
        self._loaded = False

    def __repr__(self) -> str:
        return f"Registry({self.kind!r})"

    def register(
        self,
        name: str,
        *,
        example: Settings | None = None,
        data: Settings | None = None,
        dimensions: tuple[int, ...] = (1, 2, 3),
        staged: bool | None = None,
    ) -> Callable[[Component], Component]:
        """Return a decorator that registers a class under `name`; `Entry` documents the other arguments.

        By default a component is `staged` if it takes a condition.

        Raises: RegistryError if another class has that name, or if the signature cannot serve as a schema.
        """

        def add(component: Component) -> Component:
            claimed = _takes_condition(component) if staged is None else staged
            entry = Entry(name, component, origin_of(component), example or {}, data, dimensions, claimed)
            _check_signature(self, entry)
            self.put(entry)
            return component

        return add

    def put(self, entry: Entry) -> None:
        """Add an entry. Raises: RegistryError, with both places, if another class has its name."""
        known = self._entries.get(entry.name)
        if known and not _same(known.component, entry.component):
            raise RegistryError(
                f"{self.kind} {entry.name!r} is registered twice: {known.origin} and {entry.origin}. "
                "Give one of them another name."
            )
        self._entries[entry.name] = entry

    def get(self, name: str) -> Entry:
        """Return the entry of that name. Raises: RegistryError with the nearest name, and any broken packages."""
        entries = self.entries()
        if name not in entries:
            broken = "".join(
                f" The package {one.package} {one.version} may provide it but cannot be imported: {one.error}."
                for one in installed()
                if one.error
            )
            raise RegistryError(
                f"no {self.kind} is called {name!r}. {nearest(name, list(entries))}Known: {', '.join(entries)}. "
                f"For a plugin's, list its file under `plugins:` in the recipe, or pass --plugin FILE.{broken}"
            )
        return entries[name]

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name: built-in components and those of installed packages and active plugins."""
        self.snapshot()
        installed()
        return dict(sorted(self._entries.items()))

    def snapshot(self) -> dict[str, Entry]:
        """Return a copy of the current entries, for `restore`; built-in ones are imported first."""
        if not self._loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True
        return dict(self._entries)

    def restore(self, entries: dict[str, Entry]) -> None:
        """Replace all entries by these."""
        self._entries = dict(entries)


@dataclass(frozen=True)
class Installed:
    """An entry point in the group `vqtk.plugins`, and its package; `error` says why it could not be imported."""

    name: str
    package: str
    version: str
    error: str | None


_installed: list[Installed] | None = None


def installed() -> list[Installed]:
    """Return the installed packages that provide components; the first call imports them."""
    global _installed
    if _installed is None:
        _installed = []  # What asks for components while it is imported must not import it again.
        found = sorted(entry_points(group="vqtk.plugins"), key=lambda point: point.name)
        _installed = [_import(point) for point in found]
    return _installed


def _import(point: EntryPoint) -> Installed:
    before = {registry: registry.snapshot() for registry in REGISTRIES.values()}
    error = None
    try:
        point.load()
    except (Exception, SystemExit) as raised:
        error = on_one_line(raised)
        for registry, entries in before.items():
            registry.restore(entries)
    package, version = (point.dist.name, point.dist.version) if point.dist else (point.value, "")
    return Installed(point.name, package, version, error)


def origin_of(component: type) -> str:
    """Return the file and line that define a component; its dotted name if its source is not available."""
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return f"{component.__module__}.{component.__qualname__}"


def _same(one: type, other: type) -> bool:
    # By name, since a module or notebook cell that is executed again defines its class again, as another object.
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def extended_by(component: type) -> type | None:
    """Return the class to which a component passes `**settings: Inherited`; None if it passes on none."""
    constructors = [base for base in component.__mro__ if "__init__" in vars(base)]
    if len(constructors) < 2 or not any(map(_inherits, inspect.signature(constructors[0]).parameters.values())):
        return None
    return constructors[1]


def _inherits(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.VAR_KEYWORD and parameter.annotation in (Inherited, "Inherited")


def _takes_condition(component: type) -> bool:
    if not inspect.isclass(component):
        return False
    extended = extended_by(component)
    return "condition" in inspect.signature(component).parameters or bool(extended and _takes_condition(extended))


def _check_signature(registry: Registry, entry: Entry) -> None:
    where = f"{registry.kind} {entry.name!r} ({entry.origin})"
    if not inspect.isclass(entry.component):
        raise RegistryError(f"{where}: expected a class, got a {type(entry.component).__name__}.")
    if not inspect.getdoc(entry.component):
        raise RegistryError(f"{where}: a component needs a docstring; its first line is shown by `vqtk list`.")
    parameters = list(inspect.signature(entry.component).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and not _inherits(parameter):
            raise RegistryError(
                f"{where}: `{str(parameter).partition(':')[0]}` would swallow misspelt keys. Name each parameter, or "
                "write `**settings: Inherited` (from vqtk.registry) to accept the settings of the class it extends."
            )
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is parameter.empty:
            raise RegistryError(
                f"{where}: parameter {parameter.name!r} has no type, so a recipe's value for it could not be checked. "
                f"Annotate it, as in `{parameter.name}: int`."
            )
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in {"name", "repeat", "keep", *registry.common}:
            raise RegistryError(f"{where}: {parameter.name!r} is a reserved key of recipes; rename the parameter.")
    supplied = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(supplied) != len(registry.supplied):
        raise RegistryError(
            f"{where}: its positional parameters are ({', '.join(supplied)}); the toolkit supplies "
            f"({', '.join(registry.supplied)}). Take these, and put the settings of a recipe after a `*`."
        )


_FEATURES = ("in_width", "size", "stages")
_DELTAS = (*_FEATURES, "options", "out_channels")

models = Registry("model", package="vqtk.models", supplied=("data",), default="vqdraw")
refiners = Registry("refiner", package="vqtk.refiners", supplied=_DELTAS, default="composed")
backbones = Registry("backbone", package="vqtk.backbones", supplied=_FEATURES)
blocks = Registry("block", package="vqtk.blocks", supplied=_FEATURES)
heads = Registry("head", package="vqtk.heads", supplied=_DELTAS)
conditions = Registry("condition", package="vqtk.conditions", supplied=("width", "stages"), default="scale")
losses = Registry("loss", package="vqtk.losses", supplied=("data",))
selectors = Registry("selector", package="vqtk.selectors", supplied=(), default="argmin")
searches = Registry("search", package="vqtk.searches", supplied=(), default="greedy")
revivals = Registry("revival", package="vqtk.revivals", supplied=("model",))
objectives = Registry("objective", package="vqtk.objectives", supplied=("model", "load"), default="stages")
optimizers = Registry("optimizer", package="vqtk.optimizers", supplied=("model",), default="adam")
schedules = Registry("schedule", package="vqtk.schedules", supplied=(), default="constant")
guides = Registry("guide", package="vqtk.guides", supplied=("model",))
callbacks = Registry("callback", package="vqtk.callbacks", supplied=())
metrics = Registry("metric", package="vqtk.metrics", supplied=("data",))
coders = Registry("coder", package="vqtk.coders", supplied=("model", "tables"))
"""Not among `REGISTRIES`, since no recipe names a coder: a file of codes does, so that anyone can read it."""
augmentations = Registry("augmentation", package="vqtk.augmentations", supplied=())
datasets = Registry(
    "dataset",
    package="vqtk.datasets",
    supplied=(),
    common={
        "batch": (Annotated[int, Ge(1)], 32),
        "validation": (Annotated[int, Ge(0)], 0),
        "augment": (list[Annotated[Callable[..., Any], augmentations]], []),
    },
)

REGISTRIES = {
    registry.kind: registry
    for registry in (
        models, refiners, backbones, blocks, heads, conditions, losses, selectors, searches, objectives,
        optimizers, schedules, revivals, callbacks, guides, metrics, augmentations, datasets,
    )
}  # fmt: skip

Inherited = Annotated[Any, "the settings of the class that a component extends"]
"""The type of `**settings` that a component accepts for the class it extends and passes on to it."""

Factory = Callable[..., Any]
ModelFactory = Annotated[Factory, models]
RefinerFactory = Annotated[Factory, refiners]
BackboneFactory = Annotated[Factory, backbones]
BlockFactory = Annotated[Factory, blocks]
HeadFactory = Annotated[Factory, heads]
ConditionFactory = Annotated[Factory, conditions]
LossFactory = Annotated[Factory, losses]
SelectorFactory = Annotated[Factory, selectors]
SearchFactory = Annotated[Factory, searches]
RevivalFactory = Annotated[Factory, revivals]
ObjectiveFactory = Annotated[Factory, objectives]
OptimizerFactory = Annotated[Factory, optimizers]
ScheduleFactory = Annotated[Factory, schedules]
CallbackFactory = Annotated[Factory, callbacks]
GuideFactory = Annotated[Factory, guides]
MetricFactory = Annotated[Factory, metrics]
AugmentationFactory = Annotated[Factory, augmentations]
DatasetFactory = Annotated[Factory, datasets]


def __getattr__(name: str) -> Any:
    """Return a factory by its name in version 0.1, which the plugins kept with older runs import."""
    factory = globals().get(f"{name}Factory")
    if factory is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return factory
