"""The recipes that ship: they build, are as large as the original's, and can be trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqtk.evaluate.profile import flops, parameters_by_part, total_parameters
from vqtk.recipe.build import build_model, validate
from vqtk.recipe.recipe import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
PARAMETERS = {
    "mnist": 537_793,
    "mnist_gaussian": 625_185,
    "svhn": 7_200_260,
    "cifar10": 88_852_618,
    "celeba": 38_358_922,
    "wikitext2": 28_456_965,
    "modelnet": 21_282_564,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_reference_recipe_has_as_many_parameters_as_the_original(name: str) -> None:
    model = build_model(load_recipe(RECIPES / f"{name}.yaml"), device="meta")
    assert total_parameters(model) == PARAMETERS[name]
    assert sum(parameters_by_part(model).values()) == PARAMETERS[name]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_tree_passes_validate(path: Path) -> None:
    # The largest grids are validated at half their size here; `vqtk validate` does them whole.
    overrides = ["data.size=32"] if path.stem in ("modelnet", "celeba") else []
    tried = validate(load_recipe(path, overrides))
    assert tried.bits > 0


def test_decoding_takes_fewer_operations_than_encoding() -> None:
    operations = flops(load_recipe(RECIPES / "mnist.yaml"))
    assert 0 < operations["decode"] < 0.6 * operations["encode"]


def test_operations_are_those_counted_by_hand() -> None:
    recipe = load_recipe(RECIPES / "mnist.yaml", ["model.stages=1"])
    backbone = 2 * (14 * 14 * 32 * 9 + 7 * 7 * 64 * 32 * 9)
    blocks = 2 * 49 * 9 * (64 * 128 + 128 * 128 + 128 * 64)
    head = 2 * (49 * 64 * 64 * 16 + 196 * 64 * 64 * 16)
    output = 2 * 784 * 64 * 9 * 64
    assert flops(recipe)["encode"] == backbone + blocks + head + output
    assert flops(recipe)["decode"] == backbone + blocks + head + 2 * 784 * 64 * 9
