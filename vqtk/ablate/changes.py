"""What differs between two resolved recipes."""

from __future__ import annotations

from typing import Any

from vqtk.recipe.node import Node, below
from vqtk.recipe.show import inline

_BESIDE = ("name", "seed")


def changes(baseline: dict[str, Any], variant: dict[str, Any]) -> list[dict[str, str]]:
    """Return a row for each value that differs, with its dotted `path` and both values as YAML, or as `absent`.

    Another component, or a list of another length, is shown whole.
    """
    sides = [{key: value for key, value in plain.items() if key not in _BESIDE} for plain in (baseline, variant)]
    return _between(sides[0], sides[1], "")


def _between(old: Any, new: Any, path: str) -> list[dict[str, str]]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
        keys = dict.fromkeys([*old, *new])
        pairs = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return [{"path": path, "baseline": _said(old), "variant": _said(new)}]
    return [row for key, before, after in pairs for row in _between(before, after, below(path, key))]


_ABSENT = object()


def _said(value: Any) -> str:
    return "absent" if value is _ABSENT else inline(Node.of(value, ""))
