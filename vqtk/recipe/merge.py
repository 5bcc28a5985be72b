"""Merge recipes: `extends`, removals by `~key`, and dotted overrides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vqtk.errors import RecipeError, nearest, shortened
from vqtk.plugin.loading import source_of
from vqtk.recipe.node import MOST_DEPTH, Node, below, beside, is_file, parse_text, read, shown_path

MOST_EXTENDED = 20
"""The most recipes in a chain of `extends`."""
_LONGEST_OVERRIDE = 200
"""The most characters of an override that a message quotes."""


@dataclass(frozen=True)
class Gathered:
    """A recipe merged with all that it extends, the plugins that they name, and the recipe that it extends itself."""

    node: Node
    plugins: list[Path]
    extends: Path | None


def gather(path: Path, overrides: list[str]) -> Gathered:
    """Return a recipe merged with what it extends and with the overrides.

    Raises: RecipeError if a file cannot be read, `extends` forms a circle, or an override matches nothing.
    """
    plugins: list[Path] = []
    root, extends = _extended(path, (), plugins)
    for override in overrides:
        root = overridden(root, override)
    return Gathered(root, plugins, extends)


def _extended(path: Path, within: tuple[Path, ...], plugins: list[Path]) -> tuple[Node, Path | None]:
    """Return a file merged onto the recipe that it extends, and that recipe's path; `within` are the files above it."""
    if len(within) > MOST_EXTENDED:
        raise RecipeError(f"{shown_path(path)}: a chain of more than {MOST_EXTENDED} recipes extend one another.")
    root, parent = read(path), None
    if {"axes", "seeds"} <= root.value.keys():
        shown = shown_path(path)
        raise RecipeError(f"{shown}: this is a study; expected a recipe. Run a study with vqtk ablate {shown}.")
    extends = root.value.pop("extends", None)
    if extends is None:
        root = _cleaned(root)
    else:
        within = (*within, path.resolve())
        parent = _parent(path, extends, within)
        root = merge(_extended(parent, within, plugins)[0], root)
    take_plugins(root, path, plugins)
    return root, parent


def _parent(path: Path, extends: Node, within: tuple[Path, ...]) -> Path:
    if not isinstance(extends.value, str):
        raise RecipeError(f"{extends.origin}: extends: expected the path of one recipe, relative to this file.")
    parent = path.parent / extends.value
    if not is_file(parent):
        near = nearest(parent.name, beside(parent, "*.yaml"))
        raise RecipeError(
            f"{extends.origin}: extends: there is no file {shortened(shown_path(parent), most=200)}. {near}"
            "Expected the path of a recipe, relative to this file."
        )
    resolved = parent.resolve()
    if resolved in within:
        circle = " → ".join(shown_path(p) for p in (*within[within.index(resolved) :], resolved))
        raise RecipeError(f"{extends.origin}: extends: forms a circle: {circle}. Extend another recipe, or none.")
    return parent


def take_plugins(root: Node, path: Path, plugins: list[Path]) -> None:
    """Take `plugins` out of the mapping of the file at `path`, and add the files to `plugins`. Raises: RecipeError."""
    node = root.value.pop("plugins", None)
    if node is None:
        return
    if not isinstance(node.value, list) or not all(isinstance(child.value, str) for child in node.value):
        raise RecipeError(f"{node.origin}: plugins: expected a list of paths, as in [plugins/mine.py].")
    for child in node.value:
        plugin = path.parent / child.value
        if source_of(plugin) is None:
            near = nearest(plugin.name, beside(plugin, "*.py"))
            raise RecipeError(
                f"{child.origin}: plugins: there is no plugin {shortened(shown_path(plugin), most=200)}. {near}"
                "Expected the path of a .py file, or of a folder with an __init__.py, relative to this file."
            )
        if plugin.resolve() not in plugins:
            plugins.append(plugin.resolve())


def merge(base: Node, over: Node, path: str = "") -> Node:
    """Return `base` with the values of `over` merged over it; `path` is their dotted path in the recipe.

    Mappings merge key by key, and `~key` removes a key. Lists replace what they override, and so does a component spec
    with another name; with `keep: true` it keeps those settings of the replaced one that its component takes as well.
    """
    if not isinstance(over.value, dict):
        return over
    if isinstance(base.value, str):
        base = Node({"name": base}, base.origin)
    keeps, over = _keeps(over, path)
    if not isinstance(base.value, dict):
        base = Node({}, over.origin)
    if path and _names_another(over, base):
        kept = {key: replace(child, kept=True) for key, child in base.value.items()} if keeps else {}
        base = Node({"name": over.value["name"], **kept}, over.origin)
    merged = dict(base.value)
    for key, child in over.value.items():
        place = below(path, shortened(key))
        if key.startswith("~"):
            if merged.pop(key[1:], None) is None:
                raise RecipeError(
                    f"{child.origin}: {place}: there is no key {shortened(repr(key[1:]))} here to remove. "
                    f"{nearest(key[1:], list(base.value))}Inherited here: {', '.join(base.value) or 'nothing'}."
                )
        else:
            merged[key] = merge(merged[key], child, place) if key in merged else _cleaned(child, place)
    return Node(merged, base.origin if path else over.origin)


def _keeps(over: Node, path: str) -> tuple[bool, Node]:
    """Return whether a spec has `keep: true`, and the spec without that key."""
    if not {"name", "keep"} <= over.value.keys():
        return False, over
    keep = over.value["keep"]
    if keep.value is not True:
        raise RecipeError(
            f"{keep.origin}: {below(path, 'keep')}: expected true, which keeps the settings of the replaced component. "
            "Leave the key out to drop them."
        )
    return True, Node({key: child for key, child in over.value.items() if key != "keep"}, over.origin)


def _names_another(over: Node, base: Node) -> bool:
    if "name" not in over.value:
        return False
    return "name" not in base.value or over.value["name"].value != base.value["name"].value


def _cleaned(node: Node, path: str = "") -> Node:
    """Return a subtree merged onto an empty one, so that a removal in it is reported."""
    return merge(Node({}, node.origin), node, path)


def overridden(root: Node, override: str) -> Node:
    """Return a recipe with an override `dotted.path=value` merged in. Raises: RecipeError if it cannot be applied."""
    if not isinstance(override, str):
        raise RecipeError(f"override {override!r}: expected a string for each, such as 'train.updates=2000'.")
    path, equals, text = override.partition("=")
    origin = f"override {shortened(repr(override), most=_LONGEST_OVERRIDE)}"
    keys = path.strip().split(".")
    if len(keys) > MOST_DEPTH:
        raise RecipeError(
            f"{origin}: the path has {len(keys)} keys; expected dotted.path=value, as in train.updates=2000."
        )
    if not equals or not all(keys):
        raise RecipeError(f"{origin}: expected dotted.path=value, without spaces, as in train.updates=2000.")
    if keys[0] in ("extends", "plugins"):
        raise RecipeError(f"{origin}: `{keys[0]}` cannot be overridden. Write a recipe that sets it.")
    return _set(root, keys, parse_text(text, origin, lines=False), origin)


def _set(node: Node, keys: list[str], value: Node, origin: str, path: str = "") -> Node:
    if not keys:
        return merge(node, value, path)
    key, *rest = keys
    if isinstance(node.value, list):
        return _set_item(node, keys, value, origin, path)
    if isinstance(node.value, dict) and key in node.value and rest:
        inner = _set(node.value[key], rest, value, origin, below(path, key))
        return Node({**node.value, key: inner}, node.origin)
    inner = value
    for name in reversed(rest):
        inner = Node({name: inner}, origin)
    return merge(node, Node({key: inner}, origin), path)


def _set_item(node: Node, keys: list[str], value: Node, origin: str, path: str) -> Node:
    (key, *rest), last = keys, len(node.value) - 1
    if not key.isdecimal() or len(key) > 9 or int(key) > last:
        indices = f"0 to {last}" if last > 0 else "only 0" if last == 0 else "none, because the list is empty"
        raise RecipeError(
            f"{origin}: {below(path, shortened(key))}: expected an index of the list at {path}: {indices}."
        )
    children = list(node.value)
    children[int(key)] = _set(children[int(key)], rest, value, origin, below(path, key))
    return Node(children, node.origin)
