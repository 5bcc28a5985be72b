"""Recipes, overrides and studies to try: mutations of those in `recipes/`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz import mutate
from tests.parity import ROOT
from vqtk.errors import RecipeError
from vqtk.recipe.build import build_model
from vqtk.recipe.node import Node, parse_text, read
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.recipe.show import as_yaml
from vqtk.study.plan import _made_of
from vqtk.study.study import load_study

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
STUDIES = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
BUILT, WRITTEN = 0.02, 0.05
"""The parts of the examples that are built on the device `meta`, and that are written out and parsed."""
FEW_LAYERS = 60
"""Layers and stages of a model up to which it is built."""


def try_recipe(random: Random) -> str:
    """Try a mutated recipe; return how it ended. Raises: RecipeError."""
    plain = mutate.tree(random, random.choice(_trees(tuple(RECIPES))), _trees(tuple(RECIPES)))
    with _in_place(random, plain, RECIPES[0].parent) as path:
        return _looked_at(random, load_recipe(path))


def try_override(random: Random) -> str:
    """Try real recipes with mutated overrides; return how it ended. Raises: RecipeError."""
    base = random.choice(_trees(tuple(RECIPES)))
    with _in_place(random, None, RECIPES[0].parent):
        overrides = [_override(random, base) for _ in range(random.choice([1, 1, 2, 5]))]
        return _looked_at(random, load_recipe(random.choice(RECIPES), overrides))


def try_study(random: Random) -> str:
    """Try a mutated study, and its first variant; return how it ended. Raises: RecipeError."""
    plain = mutate.tree(random, random.choice(_trees(tuple(STUDIES))), _trees((*STUDIES, *RECIPES)))
    with _in_place(random, plain, STUDIES[0].parent) as path:
        study = load_study(path)
        source, overrides = _made_of(study, random.choice(study.variants))
        return _looked_at(random, load_recipe(source, overrides))


TRIES: dict[str, Callable[[Random], str]] = {
    "recipes": try_recipe,
    "overrides": try_override,
    "studies": try_study,
}


def _override(random: Random, base: Any) -> str:
    """Return an override: a path of a real recipe, mostly, and any value."""
    keys, node = [], base
    while isinstance(node, (dict, list)) and node and random.random() < 0.9:
        key = random.choice(list(node) if isinstance(node, dict) else list(range(len(node))))
        keys.append(str(key))
        node = node[key]
    override = f"{'.'.join(keys)}={mutate.flow(mutate.value(random))}"
    return mutate.text(random, override) if random.random() < 0.2 else override


def _looked_at(random: Random, recipe: Recipe) -> str:
    """Check that a recipe as shown is the recipe, and build it where that is cheap."""
    if random.random() < WRITTEN:
        shown = as_yaml(recipe.node)
        shown.encode()
        again = parse_text(shown, "shown").plain()
        assert repr(_repeated(again)) == repr(recipe.plain()), f"{shown!r} is not {recipe.plain()!r}"
    model = recipe.plain()["model"]
    if random.random() < BUILT and len(repr(model)) < 4000 and model.get("stages", 0) <= FEW_LAYERS:
        build_model(recipe, device="meta")
        return "built"
    return "valid"


def _repeated(plain: Any) -> Any:
    """Return a plain tree with its repetitions written out."""
    if isinstance(plain, dict):
        return {key: _repeated(child) for key, child in plain.items()}
    if not isinstance(plain, list):
        return plain
    out: list[Any] = []
    for child in map(_repeated, plain):
        times = child.pop("repeat", 1) if isinstance(child, dict) else 1
        out += [child] * times
    return out


@contextmanager
def _in_place(random: Random, plain: Any, folder: Path) -> Iterator[Path]:
    """Yield a path that is read as this tree: as a text now and then, otherwise without the cost of parsing it."""
    with pytest.MonkeyPatch.context() as patch:
        path = folder / "fuzzed.yaml"
        if random.random() < WRITTEN:
            shown = mutate.as_flow(plain)
            shown = mutate.text(random, shown) if random.random() < 0.5 else shown
            root = partial(_from_bytes, shown.encode("utf-8", "surrogatepass"))
        else:
            root = partial(_from_tree, plain)

        def instead(asked: Path) -> Node:
            return root() if asked == path else _read(asked).copy()

        patch.setattr("vqtk.recipe.merge.read", instead)
        patch.setattr("vqtk.study.study.read", instead)
        patch.setattr(Path, "is_file", lambda self: self == path or _is_file(self))
        yield path


_is_file = Path.is_file


def _from_tree(plain: Any) -> Node:
    root = Node.of(plain, "fuzzed.yaml:1")
    if not isinstance(root.value, dict):
        raise RecipeError("a recipe is a mapping.")
    return root


def _from_bytes(content: bytes) -> Node:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        return read(Path(file.name))


@cache
def _read(path: Path) -> Node:
    return read(path)


@cache
def _trees(paths: tuple[Path, ...]) -> list[Any]:
    return [read(path).plain() for path in paths]
