"""Recipes from recipes: inheritance, removals, repeats, overrides, plugins, and where each value came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bad_recipes import GOOD
from tests.running import RECIPE_MNIST
from vqtk.errors import RecipeError
from vqtk.recipe.merge import gather
from vqtk.recipe.node import Node, parse_text, walk
from vqtk.recipe.recipe import Recipe, from_plain, load_recipe
from vqtk.recipe.show import as_yaml
from vqtk.registry import losses

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
PLUGIN = """\
from vqtk.losses.mse import MSE
from vqtk.registry import losses
@losses.register("{name}")
class Loss(MSE):
    "A loss."
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(losses, "_entries", losses.entries())
    Path("good.yaml").write_text(GOOD)


def child(text: str, *overrides: str) -> Recipe:
    """The recipe that says `text` and extends good.yaml."""
    Path("child.yaml").write_text("extends: good.yaml\n" + text)
    return load_recipe("child.yaml", overrides)


def merged(base: str, over: str, *overrides: str) -> Any:
    """What two texts merge to, before the schema has had a look."""
    Path("base.yaml").write_text(base)
    Path("over.yaml").write_text("extends: base.yaml\n" + over)
    return gather(Path("over.yaml"), list(overrides)).node.plain()


def origins(recipe: Recipe) -> dict[str, str]:
    return {path: node.origin for path, node in walk(recipe.node) if not isinstance(node.value, (dict, list))}


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("a: {b: 1, c: {d: 2, e: 3}}", "a: {c: {e: 4}, f: 5}", {"a": {"b": 1, "c": {"d": 2, "e": 4}, "f": 5}}),
        ("a: {b: [1, 2, 3]}", "a: {b: [4]}", {"a": {"b": [4]}}),
        ("a: {b: [{c: 1}]}", "a: {b: []}", {"a": {"b": []}}),
        ("a: {name: x, b: 1}", "a: {name: x, c: 2}", {"a": {"name": "x", "b": 1, "c": 2}}),
        ("a: {name: x, b: 1}", "a: {name: y, c: 2}", {"a": {"name": "y", "c": 2}}),
        ("a: {name: x, b: 1}", "a: {c: 2}", {"a": {"name": "x", "b": 1, "c": 2}}),
        ("a: {name: x, b: 1}", "a: y", {"a": "y"}),
        ("a: x", "a: {b: 1}", {"a": {"name": "x", "b": 1}}),
        ("a: x", "a: {name: x, b: 1}", {"a": {"name": "x", "b": 1}}),
        ("a: x", "a: {name: y, b: 1}", {"a": {"name": "y", "b": 1}}),
        ("a: 1", "a: {b: 2}", {"a": {"b": 2}}),
        ("a: {b: 1}", "a: null", {"a": None}),
        ("a: {b: 1, c: 2}", "a: {~b: }", {"a": {"c": 2}}),
        ("a: {b: {c: 1}}", "a: {~b: , d: 2}", {"a": {"d": 2}}),
        ("a: {b: {c: 1}}", "a: {~b: , b: {d: 2}}", {"a": {"b": {"d": 2}}}),
        ("a: 1\nb: 2", "~a:", {"b": 2}),
        ("name: one\na: 1", "name: two", {"name": "two", "a": 1}),
    ],
)
def test_what_extends_a_recipe_is_laid_on_top_of_it(base: str, over: str, expected: Any) -> None:
    assert merged(base, over) == expected


def test_extends_reaches_over_several_files_and_folders() -> None:
    Path("nested").mkdir()
    Path("nested/middle.yaml").write_text("extends: ../good.yaml\nmodel: {stages: 3, grad_decay: 0.5}\n")
    Path("top.yaml").write_text("extends: nested/middle.yaml\nmodel: {stages: 4}\n")
    settings = load_recipe("top.yaml").model.settings
    assert (settings["stages"], settings["grad_decay"], settings["options"]) == (4, 0.5, 4)


def test_a_removed_key_has_its_default_again() -> None:
    assert child("train: {optimizer: {lr: 3e-4}}").train.optimizer.settings["lr"] == 3e-4
    assert child("train: {~optimizer: }").train.optimizer.settings["lr"] == 1e-3
    assert child("model: {refiner: {~blocks: }}").plain()["model"]["refiner"]["blocks"] == []


def test_each_value_knows_where_it_came_from() -> None:
    recipe = child("model:\n  stages: 3\n", "train.optimizer.eps=1e-6")
    came = origins(recipe)
    assert came["model.stages"] == "child.yaml:3"
    assert came["model.options"] == "good.yaml:5"
    assert came["model.refiner.backbone.layers.1.then.2.group"] == "good.yaml:12"
    assert came["train.optimizer.eps"] == "override 'train.optimizer.eps=1e-6'"
    assert came["train.optimizer.betas.0"] == came["model.selector.name"] == came["seed"] == "default"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b.c=2", {"a": {"b": {"c": 2, "d": [1, {"e": 2}]}}}),
        ("a.b.d.1.e=3", {"a": {"b": {"c": 1, "d": [1, {"e": 3}]}}}),
        ("a.b.d.1.f=3", {"a": {"b": {"c": 1, "d": [1, {"e": 2, "f": 3}]}}}),
        ("a.b.d.0=3", {"a": {"b": {"c": 1, "d": [3, {"e": 2}]}}}),
        ("a.b.d=[]", {"a": {"b": {"c": 1, "d": []}}}),
        ("a.b={c: 5}", {"a": {"b": {"c": 5, "d": [1, {"e": 2}]}}}),
        ("a.f.g=5", {"a": {"b": {"c": 1, "d": [1, {"e": 2}]}, "f": {"g": 5}}}),
        ("a.~b=", {"a": {}}),
        ("a.b.c=1e-3", {"a": {"b": {"c": 0.001, "d": [1, {"e": 2}]}}}),
        ("a.b.c=x=y", {"a": {"b": {"c": "x=y", "d": [1, {"e": 2}]}}}),
    ],
)
def test_an_override_sets_one_path(override: str, expected: Any) -> None:
    assert merged("a: {b: {c: 1, d: [1, {e: 2}]}}", "", override) == expected


def test_the_last_override_of_a_path_counts() -> None:
    assert load_recipe("good.yaml", ["model.stages=3", "model.stages=5"]).model.settings["stages"] == 5


def test_an_override_by_another_name_drops_the_settings_of_the_first() -> None:
    recipe = child("model: {selector: {name: epsilon, epsilon: 0.5}}", "model.selector=argmin")
    assert recipe.plain()["model"]["selector"] == {"name": "argmin"}


def test_a_spec_of_another_name_keeps_the_settings_that_its_component_takes_too() -> None:
    base = child("model: {selector: {name: epsilon, epsilon: 0.5}, refiner: {output_scale: 0.5}}")
    kept = load_recipe("child.yaml", ["model.selector={name: argmin, keep: true}"]).plain()["model"]
    assert kept == {**base.plain()["model"], "selector": {"name": "argmin"}}
    assert list(kept["selector"]) == ["name"]
    softened = child("model: {selector: {name: epsilon, epsilon: 0.5}}", "model.selector={name: epsilon, keep: true}")
    assert softened.plain()["model"]["selector"] == {"name": "epsilon", "epsilon": 0.5}
    with pytest.raises(RecipeError, match=r"model\.selector\.keep: expected true"):
        load_recipe("child.yaml", ["model.selector={name: argmin, keep: 1}"])
    with pytest.raises(RecipeError, match="unknown key"):
        load_recipe("child.yaml", ["model.selector={name: argmin, keep: true, epsilon: 0.1}"])


def test_a_section_with_a_name_can_be_given_by_its_name() -> None:
    optimizer = load_recipe("good.yaml", ["train.optimizer=adamw"]).train.optimizer
    assert (optimizer.entry.name, optimizer.settings["lr"]) == ("adamw", 1e-3)


def test_a_repeated_spec_is_as_if_written_out() -> None:
    block = "{name: conv, width: 8, kernel: 5}"
    repeated = child(f"model: {{refiner: {{blocks: [conv, {block[:-1]}, repeat: 3}}, conv]}}}}")
    written = child(f"model: {{refiner: {{blocks: [conv, {block}, {block}, {block}, conv]}}}}")
    assert repeated.plain() == written.plain()
    assert len(repeated.model.settings["refiner"].settings["blocks"]) == 5


def test_an_override_finds_a_repeated_spec_by_the_index_that_was_written() -> None:
    recipe = load_recipe("good.yaml", ["model.refiner.head.layers.0.width=6"])
    assert [layer["width"] for layer in recipe.plain()["model"]["refiner"]["head"]["layers"]] == [6, 6]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("50_000", 50_000),
        ("0x10", 16),
        ("012", 12),
        ("-4", -4),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("'50'", "50"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, expected: Any) -> None:
    value = parse_text(f"key: {text}", "text").plain()["key"]
    assert (value, type(value)) == (expected, type(expected))


def test_plugins_are_found_from_the_folder_of_the_recipe_that_names_them() -> None:
    for folder, name in (("base/plugins", "first"), ("plugins", "second")):
        Path(folder).mkdir(parents=True)
        Path(folder, f"{name}.py").write_text(PLUGIN.format(name=name))
    Path("base/base.yaml").write_text("plugins: [plugins/first.py]\n" + GOOD.replace("loss: mse", "loss: first"))
    Path("top.yaml").write_text("extends: base/base.yaml\nplugins: [plugins/second.py, base/plugins/first.py]\n")
    recipe = load_recipe("top.yaml")
    found = [plugin.path for plugin in recipe.plugins]
    assert found == [Path("base/plugins/first.py").resolve(), Path("plugins/second.py").resolve()]
    assert recipe.model.settings["loss"].entry.name == "first"
    assert load_recipe("top.yaml", ["model.loss=second"]).model.settings["loss"].entry.name == "second"


def test_a_plugin_may_be_a_package_with_modules_of_its_own() -> None:
    Path("package").mkdir()
    Path("package/__init__.py").write_text("from . import inner\n")
    Path("package/inner.py").write_text(PLUGIN.format(name="inner"))
    recipe = child("plugins: [package]\nmodel: {loss: inner}\n")
    assert recipe.model.settings["loss"].entry.name == "inner"


def read_again(recipe: Recipe) -> Recipe:
    Path("elsewhere").mkdir(exist_ok=True)
    Path("elsewhere/resolved.yaml").write_text(as_yaml(recipe.node, [plugin.path for plugin in recipe.plugins]))
    return load_recipe("elsewhere/resolved.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_resolved_recipe_is_read_again_as_the_same(path: Path) -> None:
    recipe = load_recipe(path)
    assert read_again(recipe).plain() == recipe.plain()
    plugins = [plugin.path for plugin in recipe.plugins]
    assert from_plain(recipe.plain(), "memory", plugins=plugins).plain() == recipe.plain()


@pytest.mark.parametrize("name", ["50", "1e5", "0x10", "null", "True", "off", "2020-01-01", "a-b.c+d"])
def test_a_name_that_looks_like_a_number_stays_text(name: str) -> None:
    recipe = load_recipe("good.yaml", [f"name='{name}'", "train.optimizer.eps=1e-20", "train.micro_batch=null"])
    assert recipe.name == name
    assert read_again(recipe).plain() == recipe.plain()


def test_a_resolved_recipe_names_its_plugins_and_where_values_came_from() -> None:
    Path("my plugin.py").write_text(PLUGIN.format(name="spaced"))
    recipe = child('plugins: ["my plugin.py"]\nmodel: {loss: spaced, stages: 3}\n', "train.updates=7")
    shown = as_yaml(recipe.node, [plugin.path for plugin in recipe.plugins])
    assert read_again(recipe).plain() == recipe.plain()
    lines = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in shown.splitlines()}
    assert lines["stages"] == lines["loss"] == "child.yaml:3"
    assert lines["options"] == "good.yaml:5"
    assert lines["updates"] == "override 'train.updates=7'"
    assert lines["seed"] == lines["micro_batch"] == "default"
    assert lines["schedule"] == "good.yaml:22; default: final, warmup"


def test_a_long_path_is_shown_on_its_line() -> None:
    path = "/a/folder/with/a/long/name" * 8
    shown = as_yaml(Node.of({"data": {"name": "image_folder", "path": path, "batch": 4}}, "it.yaml:1"))
    assert f'  path: "{path}"' in shown


def test_a_recipe_knows_its_loss_and_a_model_without_one_has_none() -> None:
    recipe = load_recipe(RECIPE_MNIST)
    settings = {key: value for key, value in recipe.model.settings.items() if key != "loss"}
    assert recipe.loss == "mse"
    assert replace(recipe, model=replace(recipe.model, settings=settings)).loss is None


@pytest.mark.parametrize("recipe", ["mnist", "mnist_distill", "mnist_vqvae", "mnist_residual_vq"])
def test_a_choice_among_one_option_is_refused(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"model\.options: expected a whole number from 2 to 65,536, got 1"):
        load_recipe(RECIPES[0].parent / f"{recipe}.yaml", ["model.options=1"])


def test_what_changes_no_result_is_not_of_consequence_and_all_else_is() -> None:
    mnist = RECIPE_MNIST
    own = load_recipe(mnist).of_consequence()
    beside = ["checkpoint_minutes=1", "picture_minutes=1", "picture_items=8", "evaluate_every=7", "evaluate_items=9"]
    computed = ["compile=off", "gradient_checkpointing=true", "micro_batch=8"]
    of_consequence = ["precision=bfloat16", "accumulate=2", "updates=9", "final_items=100", "optimizer.lr=2e-3"]
    for setting in ["seed=3", "name=other", *(f"train.{one}" for one in [*beside, *computed])]:
        assert load_recipe(mnist, [setting]).of_consequence() == own, setting
    for setting in ["model.stages=9", "data.batch=16", *(f"train.{one}" for one in of_consequence)]:
        assert load_recipe(mnist, [setting]).of_consequence() != own, setting
