"""From a tree of nodes to typed values: the signatures of components and dataclasses are the schema."""

from __future__ import annotations

import dataclasses
import inspect
import types
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vqtk.errors import RecipeError, RegistryError, VqtkError, nearest
from vqtk.recipe.node import Node, Problems
from vqtk.registry import Entry, Registry

INVALID: Any = object()
"""Stands for a value whose problem has been noted."""


@dataclass
class Chosen:
    """A component chosen by a recipe: a factory, called with what the toolkit supplies.

    `common` holds the keys that every spec of the registry takes, such as a data set's `batch`.
    """

    registry: Registry
    entry: Entry
    settings: dict[str, Any]
    common: dict[str, Any]
    where: str

    def __call__(self, *supplied: Any) -> Any:
        """Construct the component. Raises: RecipeError that says where in the recipe it was chosen."""
        try:
            return self.entry.component(*supplied, **self.settings)
        except RecipeError:
            raise
        except VqtkError as error:
            raise RecipeError(f"{self.where}: {error}") from error
        except Exception as error:
            raise RecipeError(
                f"{self.where}: {self.registry.kind} {self.entry.name!r} ({self.entry.origin}) could not be "
                f"built: {type(error).__name__}: {error}"
            ) from error


@dataclass
class Scope:
    """What holds while a part of a recipe is read: the problems so far, and the choices made further out."""

    problems: Problems
    chosen: dict[tuple[str, Registry], Chosen] = field(default_factory=dict)


def parse(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    """Return the value that a node says, by its type; fill the node with the defaults that it leaves out.

    Problems are noted in the scope, and INVALID returned.
    """
    registry = registry_of(hint)
    if registry:
        return _component(node, registry, path, scope)
    if dataclasses.is_dataclass(hint):
        return _section(node, hint, path, scope)
    if get_origin(hint) is list and _structured(hint):
        return _list(node, get_args(hint)[0], path, scope)
    if get_origin(hint) in (Union, types.UnionType) and _structured(hint):
        return _union(node, hint, path, scope)
    return _leaf(node, hint, path, scope)


def registry_of(hint: Any) -> Registry | None:
    """Return the registry that a type annotation names, if it does."""
    return next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Registry)), None)


@dataclass(frozen=True)
class Parameter:
    """What a recipe may set: its type, and its default (`inspect.Parameter.empty` if there is none)."""

    hint: Any
    default: Any


@lru_cache(maxsize=None)
def parameters(component: type) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a component, or the fields of a dataclass."""
    if dataclasses.is_dataclass(component):
        hints = get_type_hints(component, include_extras=True)
        return {field.name: Parameter(hints[field.name], _default(field)) for field in dataclasses.fields(component)}
    hints = get_type_hints(component.__init__, include_extras=True)
    found = inspect.signature(component).parameters.values()
    return {p.name: Parameter(hints[p.name], p.default) for p in found if p.kind is p.KEYWORD_ONLY}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def describe(hint: Any) -> str:
    """Return a type in words."""
    registry = registry_of(hint)
    if registry:
        return f"{_article(registry.kind)} spec"
    if get_origin(hint) is Annotated:
        base, *bounds = get_args(hint)
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        limits = [f"{sign} {getattr(b, name)}" for b in bounds for name, sign in signs.items() if hasattr(b, name)]
        return " and ".join([describe(base), *limits])
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) if isinstance(value, str) else str(value) for value in get_args(hint))
    if get_origin(hint) is list:
        return f"a list of {describe(get_args(hint)[0])}"
    if get_origin(hint) in (Union, types.UnionType):
        return ", or ".join(describe(member) for member in get_args(hint))
    if dataclasses.is_dataclass(hint):
        return "{" + ", ".join(parameters(hint)) + "}"  # type: ignore[arg-type]
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _structured(hint: Any) -> bool:
    if registry_of(hint) or dataclasses.is_dataclass(hint):
        return True
    return get_origin(hint) in (list, Union, types.UnionType) and any(map(_structured, get_args(hint)))


def _component(node: Node, registry: Registry, path: str, scope: Scope) -> Any:
    if isinstance(node.value, str):
        node.value = {"name": Node(node.value, node.origin)}
    if not isinstance(node.value, dict):
        return _wrong(node, f"{_article(registry.kind)}: its name, or a mapping with `name`", path, scope)
    if "name" not in node.value and registry.default:
        node.value = {"name": Node(registry.default, "default"), **node.value}
    if "name" not in node.value:
        known = ", ".join(registry.entries())
        scope.problems.add(node, path, f"which {registry.kind}? Give `name`, one of: {known}.")
        return INVALID
    try:
        entry = registry.get(node.value["name"].value)
    except RegistryError as error:
        scope.problems.add(node.value["name"], path, str(error))
        return INVALID
    common = {key: Parameter(hint, default) for key, (hint, default) in registry.common.items()}
    fields = {**parameters(entry.component), **common}
    inner = Scope(scope.problems, dict(scope.chosen))
    values = _fields(node, fields, path, inner, known_as=f"{registry.kind} {entry.name!r}", besides={"name"})
    if values is INVALID:
        return INVALID
    own = {key: value for key, value in values.items() if key not in common}
    shared = {key: values[key] for key in common}
    return Chosen(registry, entry, own, shared, f"{node.origin}: {path}")


def _section(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    if not isinstance(node.value, dict):
        return _wrong(node, f"a mapping with {', '.join(parameters(hint))}", path, scope)
    values = _fields(node, parameters(hint), path, scope, known_as=path or "a recipe")
    return values if values is INVALID else hint(**values)


def _fields(
    node: Node, fields: dict[str, Parameter], path: str, scope: Scope, *, known_as: str, besides: set[str] = frozenset()  # type: ignore[assignment]
) -> Any:
    before = len(scope.problems.found)
    for key in node.value:
        if key not in fields and key not in besides:
            place = _below(path, key)
            allowed = ", ".join(fields) or "no keys"
            scope.problems.add(
                node.value[key], place, f"unknown key. {nearest(key, list(fields))}{known_as} takes: {allowed}."
            )
    values: dict[str, Any] = {}
    for key, parameter in fields.items():
        values[key] = _field(node, key, parameter, path, scope)
        registry = registry_of(parameter.hint)
        if registry and isinstance(values[key], Chosen):
            scope.chosen[key, registry] = values[key]
    return INVALID if len(scope.problems.found) > before else values


def _field(node: Node, key: str, parameter: Parameter, path: str, scope: Scope) -> Any:
    registry = registry_of(parameter.hint)
    if key not in node.value and registry:
        if (key, registry) in scope.chosen:
            return scope.chosen[key, registry]
        if registry.default:
            node.value[key] = Node(registry.default, "default")
    if key in node.value:
        return parse(node.value[key], parameter.hint, _below(path, key), scope)
    default = parameter.default
    if default is inspect.Parameter.empty:
        scope.problems.add(node, path, f"`{key}` is missing; expected {describe(parameter.hint)}.")
        return INVALID
    node.value[key] = Node.of(_plain(default), "default")
    return parse(node.value[key], parameter.hint, _below(path, key), scope)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _list(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    if not isinstance(node.value, list):
        return _wrong(node, f"a list of {describe(hint)}", path, scope)
    node.value = [copy for index, child in enumerate(node.value) for copy in _repeated(child, f"{path}.{index}", scope)]
    values = [parse(child, hint, f"{path}.{index}", scope) for index, child in enumerate(node.value)]
    return INVALID if any(value is INVALID for value in values) else values


def _repeated(node: Node, path: str, scope: Scope) -> list[Node]:
    if not isinstance(node.value, dict) or "repeat" not in node.value:
        return [node]
    times = node.value.pop("repeat")
    if not isinstance(times.value, int) or isinstance(times.value, bool) or times.value < 1:
        scope.problems.add(times, f"{path}.repeat", f"expected a whole number ≥ 1, got {times.value!r}.")
        return [node]
    return [node.copy() for _ in range(times.value)]


def _union(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    members = get_args(hint)
    if node.value is None and type(None) in members:
        return None
    for member in members:
        if _structured(member) and (isinstance(node.value, dict) or registry_of(member)):
            return parse(node, member, path, scope)
    simple = tuple(member for member in members if not _structured(member))
    if not simple:
        return _wrong(node, describe(hint), path, scope)
    return _leaf(node, Union[simple], path, scope, expected=describe(hint))  # noqa: UP007


def _leaf(node: Node, hint: Any, path: str, scope: Scope, *, expected: str = "") -> Any:
    try:
        return _adapter(hint).validate_python(node.plain())
    except ValidationError:
        return _wrong(node, expected or describe(hint), path, scope)


@lru_cache(maxsize=None)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _wrong(node: Node, expected: str, path: str, scope: Scope) -> Any:
    given = node.plain()
    hint = nearest(given, _words(expected)) if isinstance(given, str) else ""
    scope.problems.add(node, path, f"expected {expected}, got {given!r}. {hint}".rstrip())
    return INVALID


def _words(expected: str) -> list[str]:
    return [word for word in expected.split("'")[1::2] if word]


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
