"""Mutations of trees, of texts and of bytes, all by one random generator."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

WORDS = [
    "", " ", "~", "<<", "name", "repeat", "~loss", "extends", "plugins", "mse", "conv", "none", "mnist", "../x", "/",
    ".", "a" * 300, "x" * 5000, "\0", "\x1b[2J", "\u202e", "é" * 70, "\U0001f600", "\ud800", "[bold red]", "{{7*7}}",
    "%s%n", "1e3", "0x10", "true", "null", "nan", "model.options=3", "a.b.c", "-", "a\nb", "'", '"', ":", "#",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 7, 10_000, 65_537, 2**31, 2**63 - 1, 2**63, -(2**63), 10**9, 10**30, 10**400, 0.0, -0.0, 0.5,
    1e-300, 1e308, float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
TOKENS = [
    "&a ", "*a", "<<: *a", "!!binary aGk=", "!!python/object:os.system x", "!!set {a}", "!!timestamp 2024-01-01", "? ",
    "- ", ": ", "{", "}", "[", "]", "|", ">", "%YAML 1.1\n---\n", "---\n", "...\n", "\t", "\n", "#", "'", '"', "\\",
    "~", "0o17", "1_000", ".inf", ".nan", "12:30:45", "yes", "\x00", "\x85", "\u2028", "\ufeff", "é", "@", "`",
    "[" * 80, "{a: " * 80, "&b [*b]", "a: " * 20, "!" * 30, "9" * 5000, "1e999",
]  # fmt: skip
DEEPEST, LARGEST = 70, 20_000


def value(random: Random, depth: int = 0) -> Any:
    """Return a value of any kind that YAML or JSON has, often a wrong one."""
    kind = random.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return random.choice([None, True, False])
    if kind in (1, 2):
        return random.choice(NUMBERS)
    if kind in (3, 4):
        return random.choice(WORDS)
    if kind == 5:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 6:
        return {random.choice(WORDS): value(random, depth + 1) for _ in range(random.randrange(4))}
    return _nested(random)


def _nested(random: Random) -> Any:
    inner: Any = random.choice(NUMBERS)
    for _ in range(random.choice([1, 5, 59, DEEPEST])):
        inner = [inner] if random.random() < 0.5 else {"a": inner}
    return inner


def tree(random: Random, original: Any, others: list[Any]) -> Any:
    """Return a copy of a tree with some of its places changed; `others` are trees to take parts of."""
    changed = copy.deepcopy(original)
    for _ in range(random.choice([1, 1, 1, 2, 3, 8])):
        places = list(_places(changed))
        if not places:
            return value(random)
        if len(places) > LARGEST:
            break
        _change(random, *random.choice(places), others)
    return changed


def _places(node: Any) -> Any:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


def _change(random: Random, within: Any, key: Any, others: list[Any]) -> None:
    """Change one entry of a mapping or list."""
    how = random.randrange(9)
    if how <= 2:
        within[key] = value(random)
    elif how == 3:
        del within[key]
    elif how == 4:
        near = within[key]
        within[key] = near * random.choice([-1, 10, 10**6]) if isinstance(near, (int, float)) else [near] * 3
    elif how == 5 and isinstance(within, dict):
        within[random.choice([*WORDS, str(key) + "s", "~" + str(key)])] = within.pop(key)
    elif how == 6 and isinstance(within, list):
        within.extend([within[key]] * random.choice([1, 5, 120]))
    elif how == 7 and isinstance(within[key], dict):
        within[key]["repeat"] = random.choice([2, 1000, 1001, *NUMBERS])
    else:
        source, place = random.choice(list(_places(random.choice(others))))
        within[key] = copy.deepcopy(source[place])


def text(random: Random, original: str) -> str:
    """Return a text with pieces put in, taken out, doubled or swapped."""
    changed = original
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        start = random.randrange(len(changed) + 1)
        end = min(len(changed), start + random.choice([0, 0, 1, 3, 30]))
        piece = random.choice([random.choice(TOKENS), random.choice(WORDS), changed[start:end] * 2, ""])
        changed = changed[:start] + piece + changed[end:]
    return changed


def data(random: Random, original: bytes) -> bytes:
    """Return bytes with some flipped, replaced, cut out or doubled, or cut short."""
    changed = bytearray(original)
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        start = random.randrange(len(changed) + 1)
        count = random.choice([1, 1, 2, 4, 8, 64])
        how = random.randrange(6)
        if how == 0 and start < len(changed):
            changed[start] ^= 1 << random.randrange(8)
        elif how == 1:
            changed[start : start + count] = random.choice([b"\0", b"\xff", b"\x7f", b"9"]) * count
        elif how == 2:
            del changed[start : start + count]
        elif how == 3:
            changed[start:start] = changed[start : start + count]
        elif how == 4:
            changed[start : start + count] = random.randbytes(count)
        elif random.random() < 0.2:
            del changed[start:]
    return bytes(changed)


def as_flow(tree: Any) -> str:
    """Return a tree as YAML in flow style, a mapping's first level in block style."""
    if not isinstance(tree, dict):
        return flow(tree)
    return "".join(f"{json.dumps(str(key))}: {flow(child)}\n" for key, child in tree.items())


def flow(tree: Any) -> str:
    """Return a tree as JSON, with numbers that JSON lacks as YAML has them."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {flow(child)}" for key, child in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(flow, tree)) + "]"
    if isinstance(tree, float) and (tree != tree or abs(tree) == float("inf")):
        return ".nan" if tree != tree else ".inf" if tree > 0 else "-.inf"
    return "9" * 400 if isinstance(tree, int) and abs(tree) > 10**300 else json.dumps(tree)
