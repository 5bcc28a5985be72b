"""Recipes from recipes: `extends`, removals, and dotted overrides."""

from __future__ import annotations

from pathlib import Path

from vqtk.errors import RecipeError, nearest
from vqtk.recipe.node import Node, parse_text, read, shown_path


def gather(path: Path, overrides: list[str]) -> tuple[Node, list[Path]]:
    """Return a recipe with what it extends and the overrides merged in, and the plugin files that it names.

    Raises: RecipeError if a file cannot be read, `extends` runs in a circle, or an override matches nothing.
    """
    plugins: list[Path] = []
    root = _extended(path, (), plugins)
    for override in overrides:
        root = _override(root, override)
    return root, plugins


def _extended(path: Path, below: tuple[Path, ...], plugins: list[Path]) -> Node:
    resolved = path.resolve()
    if resolved in below:
        circle = " → ".join(shown_path(p) for p in (*below[below.index(resolved) :], resolved))
        raise RecipeError(f"`extends` runs in a circle: {circle}. Remove one of these lines.")
    root = read(path)
    extends = root.value.pop("extends", None)
    if extends is not None:
        if not isinstance(extends.value, str):
            raise RecipeError(f"{extends.origin}: extends: expected the path of one recipe, relative to this file.")
        parent = path.parent / extends.value
        if not parent.exists():
            beside = [p.name for p in parent.parent.glob("*.yaml")] if parent.parent.is_dir() else []
            raise RecipeError(
                f"{extends.origin}: extends: there is no {shown_path(parent)}. {nearest(parent.name, beside)}"
                "Expected the path of a recipe, relative to this file."
            )
        root = merge(_extended(parent, (*below, resolved), plugins), root, at_root=True)
    _take_plugins(root, path, plugins)
    return root


def _take_plugins(root: Node, path: Path, plugins: list[Path]) -> None:
    node = root.value.pop("plugins", None)
    if node is None:
        return
    if not isinstance(node.value, list) or not all(isinstance(child.value, str) for child in node.value):
        raise RecipeError(f"{node.origin}: plugins: expected a list of paths, relative to this file.")
    for child in node.value:
        plugin = (path.parent / child.value).resolve()
        if not plugin.exists():
            beside = [p.name for p in plugin.parent.glob("*.py")] if plugin.parent.is_dir() else []
            raise RecipeError(
                f"{child.origin}: plugins: there is no {shown_path(plugin)}. {nearest(plugin.name, beside)}"
                "Expected the path of a Python file or package, relative to this file."
            )
        if plugin not in plugins:
            plugins.append(plugin)


def merge(base: Node, over: Node, *, at_root: bool = False) -> Node:
    """Return `base` with `over` laid on top.

    Mappings merge key by key, `~key` removes; lists, and component specs of another name, replace.
    """
    if not isinstance(over.value, dict):
        return over
    if not isinstance(base.value, (dict, str)):
        base = Node({}, base.origin)
    if isinstance(base.value, str):
        base = Node({"name": base}, base.origin)
    if not at_root and "name" in over.value and over.value["name"].value != _name(base):
        base = Node({}, over.origin)
    merged = dict(base.value)
    for key, child in over.value.items():
        if key.startswith("~"):
            if merged.pop(key[1:], None) is None:
                raise RecipeError(
                    f"{child.origin}: {key}: there is nothing called {key[1:]!r} here to remove. "
                    f"{nearest(key[1:], list(merged))}Present: {', '.join(merged) or 'nothing'}."
                )
        else:
            merged[key] = merge(merged[key], child) if key in merged else _cleaned(child)
    return Node(merged, over.origin if at_root else base.origin)


def _name(node: Node) -> object:
    name = node.value.get("name")
    return name.value if name else None


def _cleaned(node: Node) -> Node:
    """Return a new subtree as if merged onto nothing, so that a removal in it is reported."""
    return merge(Node({}, node.origin), node) if isinstance(node.value, dict) else node


def _override(root: Node, override: str) -> Node:
    path, equals, text = override.partition("=")
    origin = f"override {override!r}"
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"{origin}: expected dotted.path=value, as in train.updates=2000.")
    if keys[0] in ("extends", "plugins"):
        raise RecipeError(f"{origin}: `{keys[0]}` is read before overrides are. Write a recipe that says so.")
    value = parse_text(text, origin, lines=False)
    return _set(root, keys, value, origin, at_root=True)


def _set(node: Node, keys: list[str], value: Node, origin: str, *, at_root: bool = False) -> Node:
    if not keys:
        return merge(node, value)
    key, *rest = keys
    if isinstance(node.value, list):
        if not key.isdigit() or int(key) >= len(node.value):
            raise RecipeError(
                f"{origin}: {key!r} is no index of a list of {len(node.value)}; expected 0 to {len(node.value) - 1}."
            )
        children = list(node.value)
        children[int(key)] = _set(children[int(key)], rest, value, origin)
        return Node(children, node.origin)
    inner = value
    for name in reversed(rest):
        inner = Node({name: inner}, origin)
    if isinstance(node.value, dict) and key in node.value and rest:
        inner = _set(node.value[key], rest, value, origin)
        return Node({**node.value, key: inner}, node.origin)
    return merge(node, Node({key: inner}, origin), at_root=at_root)
