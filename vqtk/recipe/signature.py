"""Read the schema from a signature: the keys that a recipe may set, and their types in words."""

from __future__ import annotations

import dataclasses
import inspect
import types
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import DocInfo

from vqtk.errors import RegistryError
from vqtk.registry import Registry, extended_by, origin_of


@cache
def registry_of(hint: Any) -> Registry | None:
    """Return the registry whose factory a type annotation is; None for any other type."""
    return next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Registry)), None)


@dataclass(frozen=True)
class Parameter:
    """A parameter that a recipe may set: its type, and its default (`inspect.Parameter.empty` if it has none)."""

    hint: Any
    default: Any


@cache
def parameters(component: type) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a component, or the fields of a dataclass.

    A component that passes on `**settings: Inherited` has the parameters of the class that it extends as well.

    Raises: RegistryError if an annotation names a type that does not exist at run time.
    """
    if dataclasses.is_dataclass(component):
        hints = get_type_hints(component, include_extras=True)
        return {field.name: Parameter(hints[field.name], _default(field)) for field in dataclasses.fields(component)}
    try:
        hints = get_type_hints(component.__init__, include_extras=True)  # type: ignore[misc]
    except NameError as error:
        raise RegistryError(f"{origin_of(component)}: the type of a parameter cannot be read: {error}.") from None
    found = inspect.signature(component).parameters.values()
    own = {p.name: Parameter(hints[p.name], p.default) for p in found if p.kind is p.KEYWORD_ONLY}
    extended = extended_by(component)
    if extended is None:
        return own
    return {**own, **{name: value for name, value in parameters(extended).items() if name not in own}}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


@cache
def describe(hint: Any) -> str:
    """Return a type in words."""
    registry = registry_of(hint)
    if registry:
        return article(registry.kind)
    if get_origin(hint) is Annotated:
        return _described_bounds(*get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) if isinstance(value, str) else str(value) for value in get_args(hint))
    if get_origin(hint) is list:
        return f"a list, each {describe(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"a mapping, each value {describe(get_args(hint)[1])}"
    if get_origin(hint) in (Union, types.UnionType):
        lists_last = sorted(get_args(hint), key=lambda member: get_origin(member) is list)
        return ", or ".join(describe(member) for member in lists_last)
    if dataclasses.is_dataclass(hint):
        return f"a mapping with {', '.join(parameters(hint))}"  # type: ignore[arg-type]
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _described_bounds(base: Any, *bounds: Any) -> str:
    documented = [bound.documentation for bound in bounds if isinstance(bound, DocInfo)]
    if documented:
        return documented[0]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{sign} {getattr(b, name)}" for b in bounds for name, sign in signs.items() if hasattr(b, name)]
    return f"{describe(base)} {' and '.join(limits)}".rstrip()


def article(word: str) -> str:
    """Return the word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
