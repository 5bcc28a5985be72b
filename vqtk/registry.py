"""Registries: names for swappable components, whose signatures are the recipe's schema.

A component is a class. Its positional parameters are supplied by the toolkit; its keyword-only
parameters are what a recipe may set. A parameter annotated with a factory below (`BlockFactory`, `ConditionFactory`,
…) takes a nested spec, and receives what makes the component when it is called with what the toolkit supplies.
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
"""What a recipe says of a component, as plain values."""


@dataclass(frozen=True)
class Entry:
    """One registered component: its name, its class, the file and line that defined it, and what it claims.

    `example` are settings to try it with, `data` the data to do so on where faces will not do. It works in these
    `dimensions`; `staged` says that what it yields depends on the stage.
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
    """Components of one kind by name; the built-in ones are imported when first asked for.

    `package` holds one module a component. `supplied` names the positional parameters that a component
    of this registry receives. `default` is what a spec without a name means. `common` are keys that every
    spec of this registry takes besides its own, with their types and defaults.
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
        """Return a decorator that registers a class under `name`, with what its contract is checked by (see `Entry`).

        What takes a condition is `staged` unless it says otherwise.
        Raises: RegistryError if another class has that name, or if the signature cannot be a schema.
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
        """Return the entry of that name. Raises: RegistryError that names the nearest one, and broken packages."""
        entries = self.entries()
        if name not in entries:
            broken = "".join(
                f" {one.package} {one.version}, which is installed and may bring it, cannot be imported: {one.error}."
                for one in installed()
                if one.error
            )
            raise RegistryError(
                f"no {self.kind} is called {name!r}. {nearest(name, list(entries))}Known: {', '.join(entries)}. "
                f"One of a plugin needs its file under `plugins:` in the recipe, or --plugin FILE.{broken}"
            )
        return entries[name]

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name: built-in ones, those of installed packages, and those of active plugins."""
        self.snapshot()
        installed()
        return dict(sorted(self._entries.items()))

    def snapshot(self) -> dict[str, Entry]:
        """Return the entries as they are, for `restore`; built-in ones are imported first."""
        if not self._loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True
        return dict(self._entries)

    def restore(self, entries: dict[str, Entry]) -> None:
        """Have these entries and no others."""
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
    """Import the installed packages that bring components, once; a broken one leaves nothing registered."""
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
    """Return the file and line that define a component."""
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return f"{component.__module__}.{component.__qualname__}"


def _same(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def extended_by(component: type) -> type | None:
    """Return the class whose settings a component hands on by `**settings: Inherited`; None if it hands on none."""
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
        raise RegistryError(f"{where}: a component is a class; this is a {type(entry.component).__name__}.")
    if not inspect.getdoc(entry.component):
        raise RegistryError(f"{where}: a component needs a docstring; its first line is shown by `vqtk list`.")
    parameters = list(inspect.signature(entry.component).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and not _inherits(parameter):
            raise RegistryError(
                f"{where}: `{str(parameter).partition(':')[0]}` would swallow misspelt keys. Name each parameter, or "
                "write `**settings: Inherited` (of vqtk.registry) to hand on the settings of the class it extends."
            )
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is parameter.empty:
            raise RegistryError(
                f"{where}: parameter {parameter.name!r} has no type; a recipe could not be checked. "
                f"Write it as in `{parameter.name}: int`."
            )
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in {"name", "repeat", "keep", *registry.common}:
            raise RegistryError(f"{where}: {parameter.name!r} is a word of the recipe language; rename the parameter.")
    supplied = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(supplied) != len(registry.supplied):
        raise RegistryError(
            f"{where}: its positional parameters are ({', '.join(supplied)}); the toolkit supplies "
            f"({', '.join(registry.supplied)}). Take these, and put what a recipe may set behind a `*`."
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
objectives = Registry("objective", package="vqtk.objectives", supplied=("model", "load"), default="stages")
guides = Registry("guide", package="vqtk.guides", supplied=("model",))
datasets = Registry("dataset", package="vqtk.datasets", supplied=(), common={"batch": (Annotated[int, Ge(1)], 32)})

REGISTRIES = {
    registry.kind: registry
    for registry in (
        models, refiners, backbones, blocks, heads, conditions, losses, selectors, searches, objectives,
        guides, datasets,
    )
}  # fmt: skip

Inherited = Annotated[Any, "the settings of the class that a component extends"]
"""The type of `**settings` that a component takes for the class it extends, and hands on to it."""

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
ObjectiveFactory = Annotated[Factory, objectives]
GuideFactory = Annotated[Factory, guides]
DatasetFactory = Annotated[Factory, datasets]


def __getattr__(name: str) -> Any:
    """Return a factory by the name that it had in version 0.1, under which plugins kept with runs import it."""
    factory = globals().get(f"{name}Factory")
    if factory is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return factory
