"""Wrong recipes, overrides and plugins: exit code 2, and one paragraph that says where, what, and what instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_recipes import GOOD, RECIPES
from tests.refusing import Refusing
from tests.running import vqtk_main, without_data

FILES = {
    "empty": (b"", "bad.yaml:1: a recipe is a mapping of keys to values; this file holds nothing."),
    "a list": (b"- name: tiny\n", "bad.yaml:1: a recipe is a mapping of keys to values; this file holds a list."),
    "binary": (bytes(range(256)), "bad.yaml: not a UTF-8 text file; expected a recipe, a .yaml file."),
    "zero bytes": (b"name: a\0b", "bad.yaml: not valid YAML: unacceptable character", "Expected plain text"),
    "several problems": (
        GOOD.replace("stages: 2", "stages: two").replace("loss: mse", "los: mse").replace("{choice", "{chice").encode(),
        "3 problems in the recipe:\n",
        "bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got 'two'.\n",
        "bad.yaml:6: model.los: unknown key. Did you mean 'loss'?",
        "bad.yaml:23: train.objective.chice: unknown key. Did you mean 'choice'?",
    ),
}

OVERRIDES = {
    "train.updates": "override 'train.updates': expected dotted.path=value, without spaces, as in train.updates=2000.",
    "train..updates=3": "override 'train..updates=3': expected dotted.path=value",
    "modle.stages=3": "override 'modle.stages=3': modle: unknown key. Did you mean 'model'?",
    "model.stagess=3": "override 'model.stagess=3': model.stagess: unknown key. Did you mean 'stages'?",
    "model.stages=two": "override 'model.stages=two': model.stages: expected a whole number from 1 to 10,000, got",
    "model.stages=": "model.stages: expected a whole number from 1 to 10,000, got nothing (null).",
    "model.stages=[1": "override 'model.stages=[1': not valid YAML: expected ',' or ']'",
    "model.loss.scale=3": "model.loss.scale: unknown key. The loss 'mse' takes name.",
    "model.refiner.blocks.1=conv": "blocks.1: expected an index of the list at model.refiner.blocks: only 0.",
    "model.refiner.backbone.layers.-1.width=8": "layers.-1: expected an index of the list at ",
    "model.~segment=": "model.~segment: there is no key 'segment' here to remove.",
    "lr=1e-3": "override 'lr=1e-3': lr: unknown key. Did you mean 'train.optimizer.lr'?",
    "train.lr=1e-3": "train.lr: unknown key. Did you mean 'train.optimizer.lr'?",
    "train.weight_decay=0.1": "train.weight_decay: unknown key. Did you mean 'train.optimizer.weight_decay'?",
    "train.epochs=3": "train.epochs: unknown key. Did you mean 'updates'?",
    "train.gradient_clipping=1": "train.gradient_clipping: unknown key. Did you mean 'clip_norm'?",
    "batch_size=4": "batch_size: unknown key. Did you mean 'data.batch'?",
    "model.loss=MSE": "model.loss: no loss is called 'MSE'. Did you mean 'mse'?",
    "plugins=[x.py]": "override 'plugins=[x.py]': `plugins` cannot be overridden.",
}

REGISTER = """\
from vqtk.losses.mse import MSE
from vqtk.registry import losses
@losses.register("{}")
class {}(MSE):
    "A loss."
"""
PLUGINS = {
    "raises": (
        "import os\ndef f():\n    raise ValueError('no\\nluck')\nf()\n",
        "plugin.py:3: the import failed with ValueError: no luck.",
    ),
    "lacks a module": (
        "import nosuchmodule\n",
        "plugin.py:1: the import failed with ModuleNotFoundError: No module named",
    ),
    "exits": ("import sys\nsys.exit(0)\n", "plugin.py:2: the import failed with SystemExit: 0."),
    "has bad syntax": ("x = 1\ndef f(:\n", "plugin.py:2: the import failed with SyntaxError: invalid syntax."),
    "takes a name twice": (
        REGISTER.format("new", "One") + REGISTER.format("new", "Two"),
        "loss 'new' is registered twice: ",
        "plugin.py:3 and ",
        "plugin.py:8. Give one of them another name.",
    ),
    "takes a built-in name": (REGISTER.format("mse", "One"), "losses/mse.py:", "plugin.py:3. Give one of them"),
    "has an unreadable type": (
        "from __future__ import annotations\n"
        + REGISTER.format("new", "One")
        + "    def __init__(self, data, *, x: Nope = 1): ...\n",
        "plugin.py:4: the type of a parameter cannot be read: name 'Nope' is not defined.",
    ),
    "fails to build": (
        REGISTER.format("new", "One") + "    def __init__(self, data, *, x: int = 1):\n        1 / 0\n",
        "bad.yaml:7: model.loss: loss 'new'",
        "could not be built: ZeroDivisionError: division by zero (",
        "plugin.py:7)",
    ),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqtk.registry import losses

    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(losses, "_entries", losses.entries())
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "back.yaml").write_text("extends: bad.yaml\n")
    (tmp_path / "good.py").write_text("")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusing:
    return Refusing(monkeypatch, capsys)


@pytest.mark.parametrize("case", RECIPES)
def test_a_mistake_in_a_recipe_is_told_with_its_line(case: str, refusing: Refusing) -> None:
    old, new, *told = RECIPES[case]
    assert old in GOOD
    Path("bad.yaml").write_text(GOOD.replace(old, new, 1))
    refusing.tells("show", "bad.yaml", told=told)


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_recipe_is_told(case: str, refusing: Refusing) -> None:
    content, *told = FILES[case]
    Path("bad.yaml").write_bytes(content)
    refusing.tells("show", "bad.yaml", told=told)


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_override_is_told(override: str, refusing: Refusing) -> None:
    refusing.tells("show", "good.yaml", override, told=[OVERRIDES[override]])


def test_wrong_overrides_are_told_all_at_once(refusing: Refusing) -> None:
    told = (
        "2 problems in the recipe:\n",
        "override 'model.stages=0': model.stages",
        "override 'seed=x': seed: expected",
    )
    refusing.tells("run", "good.yaml", "model.stages=0", "seed=x", told=told)


def test_a_component_of_a_file_in_plugins_is_told_with_the_option_that_loads_it(refusing: Refusing) -> None:
    Path("plugins").mkdir()
    Path("plugins/l1.py").write_text(REGISTER.format("l1", "L1"))
    told = ["model.loss: no loss called 'l1' is loaded, but plugins/l1.py registers one. Pass --plugin plugins/l1.py"]
    refusing.tells("show", "good.yaml", "model.loss=l1", told=told)
    refusing.tells("show", "good.yaml", "model.condition=l1", told=["no condition is called 'l1'."])


@pytest.mark.parametrize("case", PLUGINS)
def test_a_plugin_that_cannot_be_used_is_told(case: str, refusing: Refusing) -> None:
    source, *told = PLUGINS[case]
    Path("plugin.py").write_text(source)
    Path("bad.yaml").write_text("plugins: [plugin.py]\n" + GOOD.replace("loss: mse", "loss: new"))
    refusing.tells("show", "bad.yaml", told=told)


def test_a_mended_plugin_can_be_loaded_after_it_failed(refusing: Refusing) -> None:
    source, *told = PLUGINS["takes a name twice"]
    Path("plugin.py").write_text(source)
    Path("bad.yaml").write_text("plugins: [plugin.py]\n" + GOOD.replace("loss: mse", "loss: second"))
    refusing.tells("show", "bad.yaml", told=told)
    Path("plugin.py").write_text(source.replace('"new")\nclass Two', '"second")\nclass Two'))
    assert vqtk_main(refusing.monkeypatch, "show", "bad.yaml") == 0


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("god.yaml", "god.yaml: no such recipe. Did you mean 'good.yaml'? Expected the path of a .yaml file."),
        (".", ". is a folder; expected a recipe, a .yaml file."),
        ("seed=1", "seed=1: no such recipe. Overrides such as this come after the recipe: RECIPE seed=1."),
    ],
)
def test_a_path_that_holds_no_recipe_is_told(path: str, told: str, refusing: Refusing) -> None:
    refusing.tells("show", path, told=[told])


def test_validate_reports_every_recipe_and_fails(refusing: Refusing) -> None:
    Path("bad.yaml").write_text(GOOD.replace("stages: 2", "stages: two"))
    out, err = refusing.run("validate", "bad.yaml", "good.yaml", "none.yaml")
    assert "wrong  bad.yaml\nbad.yaml:4: model.stages: expected a whole number" in out
    assert "ok     good.yaml" in out
    assert "none.yaml: no such recipe." in out
    assert err == "error: 2 of 3 recipes cannot be trained; see above.\n"


def test_a_shell_sees_the_paragraph_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And so does a caller in this process: all that is written to its files is the paragraph."""
    Path("bad.yaml").write_text(GOOD.replace("stages: 2", "stages: two"))
    paragraph = "error: bad.yaml:4: model.stages: expected a whole number from 1 to 10,000, got 'two'.\n"
    ended = subprocess.run(
        [sys.executable, "-c", "import vqtk.cli; vqtk.cli.main()", "run", "bad.yaml"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", paragraph)
    for command in ("show", "run"):
        assert vqtk_main(monkeypatch, command, "bad.yaml") == 2
        assert capfd.readouterr() == ("", paragraph)
