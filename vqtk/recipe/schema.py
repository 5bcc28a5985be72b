"""Parse a tree of nodes into typed values; the signatures of components and dataclasses are the schema."""

from __future__ import annotations

import dataclasses
import inspect
import types
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from vqtk.errors import RecipeError, RegistryError, VqtkError, nearest, shortened
from vqtk.plugin.loading import described, offered
from vqtk.recipe.node import MOST_NODES, Node, Problems, below, too_many
from vqtk.recipe.show import inline
from vqtk.recipe.signature import Parameter, article, describe, near_key, parameters, registry_of
from vqtk.registry import Entry, Registry

MOST_REPEATED = 1_000
"""The largest `repeat` of a list's entry: each repetition is built."""
MOST_LISTED = 1_000
"""The most entries of a list, repetitions included."""
_REPEATED = ("backbone", "block", "condition", "head", "loss", "refiner")
"""The kinds of components of which a list may hold several alike, so that an error offers `repeat`."""
INVALID: Any = object()
"""Returned for a value whose problem has been recorded."""


@dataclass
class Chosen:
    """A component chosen by a recipe: a factory that is called with what the toolkit supplies.

    `common` holds the keys that every spec of the registry takes, such as a data set's `batch`; `where` is the place
    in the recipe, for messages.
    """

    registry: Registry
    entry: Entry
    settings: dict[str, Any]
    common: dict[str, Any]
    where: str

    def __call__(self, *supplied: Any) -> Any:
        """Construct the component. Raises: RecipeError with the place in the recipe that chose it."""
        try:
            return self.entry.component(*supplied, **self.settings)
        except RecipeError:
            raise
        except VqtkError as error:
            raise RecipeError(f"{self.where}: {error}") from error
        except Exception as error:
            raise RecipeError(
                f"{self.where}: {self.registry.kind} {self.entry.name!r} ({self.entry.origin}) could not be "
                f"built: {described(error, named=False)}"
            ) from error


@dataclass
class Scope:
    """The context in which a part of a recipe is parsed: the problems so far, and the components chosen further out.

    A parameter that a nested spec leaves out takes the component of the same name and registry from further out, so
    that a recipe states its condition once and not in every block. `root` is the type of the whole recipe, in which the
    place of an unknown key is looked up.
    """

    problems: Problems
    chosen: dict[tuple[str, Registry], Chosen] = field(default_factory=dict)
    root: type | None = None

    def problem(self, node: Node, path: str, message: str) -> Any:
        """Record a problem; return INVALID."""
        self.problems.add(node, path, message)
        return INVALID


def check_written_out(node: Node) -> None:
    """Raise RecipeError if a recipe has too many values with its repetitions expanded."""
    if _written_out(node) > MOST_NODES:
        raise RecipeError(too_many(node.origin))


def _written_out(node: Node) -> int:
    """Return the number of values of a node with its repetitions expanded."""
    if isinstance(node.value, list):
        return 1 + sum(_written_out(child) * _times(child) for child in node.value)
    if isinstance(node.value, dict):
        return 1 + sum(map(_written_out, node.value.values()))
    return 1


def parse(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    """Return the value of a node as the type `hint`, and add the defaults that it leaves out to the node.

    Problems are recorded in the scope; the value is then INVALID.
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


@cache
def _structured(hint: Any) -> bool:
    if registry_of(hint) or dataclasses.is_dataclass(hint):
        return True
    return get_origin(hint) in (list, Union, types.UnionType) and any(map(_structured, get_args(hint)))


def _component(node: Node, registry: Registry, path: str, scope: Scope) -> Any:
    if isinstance(node.value, str):
        node.value = {"name": Node(node.value, node.origin)}
    known = ", ".join(registry.entries())
    if not isinstance(node.value, dict):
        return _wrong(node, f"{article(registry.kind)}: its name, or a mapping with `name`", path, scope)
    if "name" not in node.value and registry.default:
        node.value = {"name": Node(registry.default, "default"), **node.value}
    if "name" not in node.value:
        return scope.problem(node, path, f"which {registry.kind}? Give `name`, one of: {known}.")
    name = node.value["name"]
    if not isinstance(name.value, str):
        return _wrong(name, f"the name of {article(registry.kind)} ({known})", below(path, "name"), scope)
    try:
        entry = registry.get(name.value)
    except RegistryError as error:
        return scope.problem(name, path, offered(registry, name.value) or str(error))
    common = {key: Parameter(hint, default) for key, (hint, default) in registry.common.items()}
    fields = {**parameters(entry.component), **common}
    node.value = {key: child for key, child in node.value.items() if key in (*fields, "name") or not child.kept}
    inner = dataclasses.replace(scope, chosen=dict(scope.chosen))
    owner, repeats = f"The {registry.kind} {entry.name!r}", registry.kind in _REPEATED
    values = _fields(node, fields, path, inner, owner=owner, besides=["name"], repeats=repeats)
    if values is INVALID:
        return INVALID
    own = {key: value for key, value in values.items() if key not in common}
    shared = {key: values[key] for key in common}
    return Chosen(registry, entry, own, shared, f"{node.origin}: {path}" if path else node.origin)


def _section(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    fields = parameters(hint)
    if isinstance(node.value, str) and path and "name" in fields:
        node.value = {"name": Node(node.value, node.origin)}
    if not isinstance(node.value, dict):
        return _wrong(node, describe(hint), path, scope)
    owner, besides = ("This mapping", []) if path else ("A recipe", ["extends", "plugins"])
    values = _fields(node, fields, path, scope, owner=owner, besides=besides)
    return values if values is INVALID else hint(**values)


def _fields(
    node: Node,
    fields: dict[str, Parameter],
    path: str,
    scope: Scope,
    *,
    owner: str,
    besides: list[str],
    repeats: bool = True,
) -> Any:
    """Return the values of a mapping's keys; `besides` are further keys, which were read before.

    Where the mapping `repeats` in a list, an error about an unknown key offers `repeat`.
    """
    before = len(scope.problems.found)
    in_list = ["repeat"] if repeats and path.rpartition(".")[2].isdigit() else []
    meant: set[str | None] = set()  # Keys that were misspelt: reporting them as missing, too, would not help.
    for key, child in node.value.items():
        if key not in fields and key not in besides:
            allowed = [*besides, *fields, *in_list]
            near = near_key(key, allowed, path, scope.root)
            meant.add(near)
            advice = f"Did you mean {near!r}? " if near else ""
            takes = ", ".join(allowed) or "no keys"
            scope.problem(child, below(path, key), f"unknown key. {advice}{owner} takes {takes}.")
    values: dict[str, Any] = {}
    for key, parameter in fields.items():
        if key in meant and key not in node.value:
            continue
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
        if registry.default and _needs_no_settings(registry.default, registry):
            node.value[key] = Node(registry.default, "default")
    if key in node.value:
        return parse(node.value[key], parameter.hint, below(path, key), scope)
    default = parameter.default
    if default is inspect.Parameter.empty:
        known = f", one of: {', '.join(registry.entries())}" if registry else ""
        return scope.problem(node, path, f"`{key}` is missing; expected {describe(parameter.hint)}{known}.")
    node.value[key] = Node.of(_plain(default), "default")
    return parse(node.value[key], parameter.hint, below(path, key), scope)


def _needs_no_settings(name: str, registry: Registry) -> bool:
    """Return whether a component can be built from its name alone."""
    needed = [p.hint for p in parameters(registry.get(name).component).values() if p.default is inspect.Parameter.empty]
    return all((inner := registry_of(hint)) and inner.default for hint in needed)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _list(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    """Return a list's values, each repeated by its `repeat`; paths have the indices of the list as written."""
    if not isinstance(node.value, list):
        if isinstance(node.value, str) and registry_of(hint):  # The name of one component: is it known?
            given = node.value
            if parse(node.copy(), hint, path, scope) is not INVALID:
                scope.problem(node, path, f"expected {describe(list[hint])}. Write [{given}].")
            return INVALID
        return _wrong(node, describe(list[hint]), path, scope)
    written, node.value, values = node.value, [], []
    for index, child in enumerate(written):
        place = f"{path}.{index}"
        times = _taken_times(child, place, scope)
        copies = [child.copy() for _ in range(times)]
        node.value += copies
        first = parse(copies[0], hint, place, scope)
        values += [first] if first is INVALID else [first, *(parse(copy, hint, place, scope) for copy in copies[1:])]
    return INVALID if any(value is INVALID for value in values) else values


def _taken_times(node: Node, path: str, scope: Scope) -> int:
    """Remove `repeat` from a spec and return it; 1 if the spec has none."""
    if not isinstance(node.value, dict) or "repeat" not in node.value:
        return 1
    repeat, times = node.value["repeat"], _times(node)
    if not times:
        _wrong(repeat, f"a whole number from 1 to {MOST_REPEATED:,}", f"{path}.repeat", scope)
    del node.value["repeat"]
    return times or 1


def _times(node: Node) -> int:
    """Return how many times an entry of a list is repeated; 0 if its `repeat` is not a valid number."""
    repeat = node.value.get("repeat") if isinstance(node.value, dict) else None
    if repeat is None:
        return 1
    return repeat.value if type(repeat.value) is int and 1 <= repeat.value <= MOST_REPEATED else 0


def _union(node: Node, hint: Any, path: str, scope: Scope) -> Any:
    members = get_args(hint)
    if node.value is None and type(None) in members:
        return None
    for member in members:
        if _structured(member) and isinstance(node.value, _containers(member)):
            return parse(node, member, path, scope)
    simple = tuple(member for member in members if not _structured(member))
    if not simple:
        return _wrong(node, describe(hint), path, scope)
    return _leaf(node, Union[simple], path, scope, expected=describe(hint))  # noqa: UP007


def _containers(hint: Any) -> type | tuple[type, ...]:
    """Return the Python types in which a recipe may write a structured type."""
    if registry_of(hint):
        return (dict, str)
    return list if get_origin(hint) is list else dict


def _leaf(node: Node, hint: Any, path: str, scope: Scope, *, expected: str = "") -> Any:
    value = node.plain()
    if isinstance(value, list) and len(value) > MOST_LISTED:
        return _wrong(node, f"at most {MOST_LISTED:,} values", path, scope)
    if any(isinstance(one, int) and abs(one) >= 2**63 for one in (value if isinstance(value, list) else [value])):
        return _wrong(node, f"{expected or describe(hint)}, of at most 18 digits", path, scope)
    try:
        return _adapter(hint).validate_python(value)
    except PydanticSchemaGenerationError:
        return scope.problem(node, path, f"the component expects {describe(hint)}, which a recipe cannot express.")
    except ValidationError:
        return _wrong(node, expected or describe(hint), path, scope)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _wrong(node: Node, expected: str, path: str, scope: Scope) -> Any:
    return scope.problem(node, path, f"expected {expected}, got {_given(node)}. {_advice(node, expected)}".rstrip())


def _given(node: Node) -> str:
    """Return a wrong value as a recipe would write it, shortened."""
    if node.value is None:
        return "nothing (null)"
    return shortened(repr(node.value) if isinstance(node.value, str) else inline(node))


def _advice(node: Node, expected: str) -> str:
    words = expected.split("'")[1::2]
    if isinstance(node.value, str) and node.value not in words:
        return nearest(node.value, words)
    if isinstance(node.value, float) and node.value.is_integer() and "a whole number" in expected:
        return f"Write {int(node.value)}."
    return ""
