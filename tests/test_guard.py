"""The guard: a recipe that means to vary another and trains the same model is told so, and no other is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import TINY, vqtk_main, without_data
from vqtk.recipe.build import fingerprint, unchanged
from vqtk.recipe.recipe import load_recipe

IGNORING = '''\
"""A block that forgets to use its setting."""

from vqtk.blocks.conv import ConvBlock
from vqtk.nn.types import Count, Size
from vqtk.registry import Condition, blocks


@blocks.register("forgetful")
class Forgetful(ConvBlock):
    """A convolution."""

    def __init__(self, in_width: int, size: Size, stages: int, *, kernel: Count = 3, condition: Condition):
        super().__init__(in_width, size, stages, width=8, condition=condition)
'''
BLOCK = "    blocks: [{name: forgetful}]\n    head:"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("forgetful.py").write_text(IGNORING)
    Path("tiny.yaml").write_text("plugins: [forgetful.py]\n" + TINY.replace("    head:", BLOCK))


def variant(text: str) -> Path:
    path = Path("variant.yaml")
    path.write_text(f"extends: tiny.yaml\nname: variant\n{text}\n")
    return path


@pytest.mark.parametrize(
    "change",
    [
        "model: {selector: {name: epsilon, epsilon: 0.01}}",
        "model: {grad_decay: 0.1}",
        "model: {loss: gaussian}",
        "model: {condition: film}",
        "model: {segment: 1}",
        "model: {refiner: {output_scale: 0.2}}",
        "model: {active_stages: 2}",
        "train: {optimizer: {lr: 1e-2}}",
        "data: {batch: 4}",
        "seed: 1",
    ],
)
def test_a_variant_that_changes_something_is_not_told(change: str) -> None:
    assert unchanged(load_recipe(variant(change))) == []


def test_a_variant_that_says_the_same_is_told() -> None:
    (told,) = unchanged(load_recipe(variant("model: {options: 4}")))
    assert told == "this recipe is the same as tiny.yaml, apart from its name: the variant changes nothing."


def test_a_setting_that_is_not_used_is_told_with_its_path() -> None:
    recipe = load_recipe(variant("model: {refiner: {blocks: [{name: forgetful, kernel: 5}]}}"))
    (told,) = unchanged(recipe)
    assert told.startswith("model.refiner.blocks.0.kernel differs from tiny.yaml, but the model is the same:")
    assert fingerprint(recipe) == fingerprint(load_recipe("tiny.yaml"))


def test_overrides_are_compared_with_the_recipe_without_them() -> None:
    assert "differs from tiny.yaml" in unchanged(load_recipe("tiny.yaml", ["model.refiner.blocks.0.kernel=5"]))[0]
    assert unchanged(load_recipe("tiny.yaml", ["model.options=8"])) == []


def test_an_override_that_undoes_a_variant_is_told_of_what_it_extends() -> None:
    path = variant("model: {options: 8}")
    (told,) = unchanged(load_recipe(path, ["model.options=4"]))
    assert "is the same as tiny.yaml" in told


def test_a_run_begins_with_the_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = variant("model: {refiner: {blocks: [{name: forgetful, kernel: 5}]}}\ntrain: {updates: 1}")
    assert vqtk_main(monkeypatch, "run", path) == 0
    assert "warning: model.refiner.blocks.0.kernel differs from tiny.yaml" in capsys.readouterr().out
    assert vqtk_main(monkeypatch, "validate", path) == 0
    assert "warning: model.refiner.blocks.0.kernel differs" in capsys.readouterr().out
