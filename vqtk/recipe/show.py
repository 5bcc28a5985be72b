"""Write a resolved recipe as YAML that can be run again, with the origin of its values; and compare two recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtk.recipe.node import Node, below, walk

_WIDTH = 84
_COMMENT_COLUMN = 64
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_WORDS = {"null", "true", "false", "~"}


def as_yaml(node: Node, plugins: Sequence[Path] = ()) -> str:
    """Return a resolved recipe as YAML; a comment on each line gives the file and line, override or default."""
    named = [("plugins: " + _scalar_list(plugins), "")] if plugins else []
    lines = [*named, *_mapping(node, 0)]
    width = min(_COMMENT_COLUMN, max((len(text) for text, origin in lines if origin), default=0))
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def _mapping(node: Node, indent: int) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, child in node.value.items():
        start = f"{' ' * indent}{key}:"
        text = inline(child)
        leaf = not isinstance(child.value, (dict, list))
        if leaf or (len(start) + len(text) < _WIDTH and not (indent == 0 and key in ("model", "train"))):
            lines.append((f"{start} {text}", _origins(child)))
        elif isinstance(child.value, dict):
            lines += [(start, ""), *_mapping(child, indent + 2)]
        else:
            lines += [(start, ""), *_list(child, indent + 2)]
    return lines


def _list(node: Node, indent: int) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for child, times in _runs(node.value):
        text, origin = inline(child), _origins(child)
        if times > 1 and isinstance(child.value, dict):
            text = text[:-1] + f", repeat: {times}}}"
        lines.append((f"{' ' * indent}- {text}", origin))
    return lines


def _runs(children: list[Node]) -> list[tuple[Node, int]]:
    """Group equal neighbours, each with its count."""
    runs: list[tuple[Node, int]] = []
    for child in children:
        if runs and isinstance(child.value, dict) and runs[-1][0].plain() == child.plain():
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((child, 1))
    return runs


def inline(node: Node) -> str:
    """Return a node as YAML on one line."""
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{key}: {inline(child)}" for key, child in node.value.items()) + "}"
    if isinstance(node.value, list):
        shown = [
            inline(child)[:-1] + f", repeat: {times}}}" if times > 1 else inline(child)
            for child, times in _runs(node.value)
        ]
        return "[" + ", ".join(shown) + "]"
    return _scalar(node.value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _scalar_list(values: Any) -> str:
    return "[" + ", ".join(_scalar(str(value)) for value in values) + "]"


def last_key(path: str) -> str:
    """Return the last key of a path, ignoring list indices."""
    return [part for part in path.split(".") if not part.isdigit()][-1]


def _origins(node: Node) -> str:
    """Return where the values of a line were written, and which of them are defaults."""
    leaves = [(path, child.origin) for path, child in walk(node) if not isinstance(child.value, (dict, list))]
    if not leaves:
        return node.origin
    written = list(dict.fromkeys(origin for _, origin in leaves if origin != "default"))
    if not written:
        return "default"
    defaults = list(dict.fromkeys(last_key(path) for path, origin in leaves if origin == "default"))
    return ", ".join(written) + (f"; default: {', '.join(defaults)}" if defaults else "")


@dataclass(frozen=True)
class Change:
    """A value in which two recipes differ.

    Arguments:
        path: its dotted path.
        baseline: the value in the first recipe as YAML, or `absent`.
        variant: the value in the second, likewise.
    """

    path: str
    baseline: str
    variant: str


def changes(baseline: dict[str, Any], variant: dict[str, Any]) -> list[Change]:
    """Return the values in which two plain recipes, or parts of recipes, differ.

    A component that is replaced by another, and a list whose length differs, is one change.
    """
    return _changes(baseline, variant, "")


def value_at(plain: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path of a plain recipe; None if there is none."""
    found: Any = plain
    for key in path.split("."):
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def shown_at(plain: dict[str, Any], path: str) -> str | None:
    """Return the value at a dotted path of a plain recipe, as an override gives it; None if it is absent or null."""
    found = value_at(plain, path)
    if isinstance(found, dict) and found.keys() == {"name"}:
        return str(found["name"])
    return None if found is None else _value(found)


_ABSENT = object()


def _changes(old: Any, new: Any, path: str) -> list[Change]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
        keys = dict.fromkeys([*old, *new])
        pairs = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return [Change(path, _value(old), _value(new))]
    return [change for key, before, after in pairs for change in _changes(before, after, below(path, key))]


def _value(value: Any) -> str:
    return "absent" if value is _ABSENT else inline(Node.of(value, ""))
