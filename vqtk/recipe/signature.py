"""Read the schema from a signature: the keys that a recipe may set, their types in words, where each key belongs."""

from __future__ import annotations

import dataclasses
import inspect
import types
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import DocInfo

from vqtk.errors import RegistryError, closest
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


SYNONYMS = {
    "train.updates": "epochs steps iterations iters max_steps num_steps n_updates max_epochs",
    "train.optimizer.lr": "learning_rate rate base_lr",
    "train.clip_norm": "gradient_clipping gradient_clip grad_clip clip_grad max_grad_norm clip_grad_norm clip",
    "train.precision": "amp fp16 bf16 mixed_precision dtype autocast",
    "train.accumulate": "gradient_accumulation accumulate_grad_batches grad_accum",
    "train.schedule": "lr_schedule lr_scheduler scheduler",
    "train.evaluate_every": "eval_every eval_interval val_every val_check_interval",
    "data.batch": "batch_size batchsize bs",
    "data": "dataset",
    "model.loss": "criterion distortion",
    "model.options": "codebook_size num_embeddings num_options n_options k",
    "model.stages": "num_stages n_stages num_quantizers levels depth",
    "seed": "random_seed rng",
    "name": "run_name experiment",
}
"""Settings, each with what other tools call it."""


def near_key(key: str, allowed: list[str], path: str, root: type | None) -> str | None:
    """Return what an unknown key means: one of those `allowed` at a path, or the path of a setting elsewhere.

    Without `root`, the type of the whole recipe, only the allowed keys are considered. None if no key is near. Deep in
    a component, names elsewhere say little, so that only synonyms lead out of it.
    """
    place = setting_path(key, root, by_name=False) if root else None
    beside = None if place else closest(key, allowed, cutoff=0.75)
    if root and not place and not beside and path.count(".") == 0:
        place = setting_path(key, root)
    if place:
        above, _, last = place.rpartition(".")
        return last if above == path else place
    return beside or closest(key, allowed)


def setting_path(key: str, root: type, *, by_name: bool = True) -> str | None:
    """Return the dotted path that a misplaced or foreign key most likely means; None if no setting is near.

    Synonyms come first, and then, with `by_name`, the names of the settings of all components below `root`.
    """
    word = key.strip().casefold().replace("-", "_")
    for path, names in SYNONYMS.items():
        if word in names.split():
            return path
    places = _places(root) if by_name else {}
    near = closest(word, list(places), cutoff=0.75)
    return places[near] if near else None


@cache
def _places(root: type) -> dict[str, str]:
    """Return the path of each setting below `root` by the setting's name; of several, the one nearest to the root.

    Settings of default components come before those of others.
    """
    return {**_reached(root, defaults=False), **_reached(root, defaults=True)}


def _reached(root: type, *, defaults: bool) -> dict[str, str]:
    places: dict[str, str] = {}
    seen, queue = set[Registry](), list[tuple[Any, str]]([(root, "")])
    while queue:
        hint, path = queue.pop(0)
        registry = registry_of(hint)
        owners = [hint] if dataclasses.is_dataclass(hint) else []
        fields: dict[str, Any] = {}
        if registry and registry not in seen:
            seen.add(registry)
            entries = registry.entries()
            chosen = [registry.default] if defaults and registry.default else list(entries)
            owners = [entries[name].component for name in chosen]
            fields = {key: common for key, (common, _) in registry.common.items()}
        elif not registry and get_origin(hint) is not Annotated:
            queue += [(one, f"{path}.0" if get_origin(hint) is list else path) for one in get_args(hint)]
        for owner in owners:
            fields.update({key: parameter.hint for key, parameter in parameters(owner).items()})  # type: ignore[arg-type]
        for key, inner in fields.items():
            place = f"{path}.{key}".lstrip(".")
            places.setdefault(key, place)
            queue.append((inner, place))
    return places
