"""Plugins that are broken in ways that are easily overlooked: `vqtk plugin check` names the cause."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.refusing import Refusing

BLOCK = '''\
import torch
from torch import nn
from vqtk.nn.stage import StageModule
from vqtk.registry import blocks

@blocks.register("broken", dimensions=(1,))
class Broken(StageModule):
    """A broken block."""

    def __init__(self, in_width, size, stages):
        super().__init__(in_width, size)
        self.map = nn.Conv1d(in_width, in_width, 1)
        self.layer = {layer}

    def forward(self, features, stage):
        return {yielded}
'''
HEAD = '''\
import torch
from torch import nn
from vqtk.heads._base import Head
from vqtk.registry import Condition, heads

@heads.register("broken", dimensions=(2,))
class Broken(Head):
    """A broken head."""

    def __init__(self, in_width, size, stages, options, out_channels, *, condition: Condition):
        super().__init__(size)
        self.condition, self.shape = condition(in_width, stages), (options, out_channels)
        self.output = nn.Conv2d(in_width, options * out_channels, 1)

    def forward(self, features, stage):
        return self.output({conditioned}).unflatten(1, self.shape)

    def choose(self, features, stage, codes):
        chosen = super().choose(features, stage, codes)
        return {chosen}
'''
CONDITIONED = "self.condition(features, stage)"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Checked:
    return Checked(Refusing(monkeypatch, capsys), tmp_path)


class Checked:
    """Plugins written and checked, of which each must fail."""

    def __init__(self, command: Refusing, folder: Path):
        self.command, self.folder = command, folder

    def tells(self, source: str, *told: str) -> None:
        """Check a plugin that loads; the report below the table must hold all fragments."""
        path = self.folder / "broken.py"
        path.write_text(dedent(source))
        out, err = self.command.run("plugin", "check", str(path))
        report = " ".join(out.split("\nfailed: ", 1)[1].split())
        assert f"{path}:" in report
        assert "checks failed; see above" in err
        for fragment in told:
            assert fragment in report

    def tells_of_loading(self, path: Path, *told: str) -> None:
        """Check a plugin that cannot be loaded."""
        self.command.tells("plugin", "check", str(path), told=told)


def test_a_wrong_shape_is_told_with_the_shape_that_it_says(checked: Checked) -> None:
    source = BLOCK.format(layer="None", yielded="self.map(features).repeat(1, 2, 1)")
    told = "block broken", "in 1 dimensions", "returns shape (3, 16, 8)", "expected (3, 8, 8)", "its `width`"
    checked.tells(source, *told)


def test_a_parameter_without_a_gradient_is_named(checked: Checked) -> None:
    source = BLOCK.format(layer="nn.Linear(3, 5)", yielded="self.map(features)")
    checked.tells(source, "parameter `layer.weight` (5, 3) receives no gradient", "all 3 stages", "remove it")


def test_leakage_between_items_is_put_down_to_the_batch_norm(checked: Checked) -> None:
    source = BLOCK.format(layer="nn.BatchNorm1d(in_width)", yielded="self.layer(self.map(features))")
    told = "depends on the other examples", "training mode", "its BatchNorm1d `layer`", "Use GroupNorm or LayerNorm"
    checked.tells(source, *told)


def test_an_update_of_the_input_in_place_is_told(checked: Checked) -> None:
    source = BLOCK.format(layer="None", yielded="self.map(features.mul_(0.5))")
    checked.tells(source, "`forward` changes its input `features` in place", "return a new tensor")


@pytest.mark.parametrize(
    ("layer", "yielded", "told"),
    [
        ("None", "self.map(features) + torch.rand(8)", "returns something else when called again in training mode"),
        ("nn.Dropout(0.5)", "self.map(self.layer(features))", "its Dropout `layer` is random"),
    ],
)
def test_something_else_each_time_is_told(checked: Checked, layer: str, yielded: str, told: str) -> None:
    checked.tells(BLOCK.format(layer=layer, yielded=yielded), told, "A component must not be random")


def test_a_chosen_path_that_differs_from_the_full_one_is_told(checked: Checked) -> None:
    source = HEAD.format(conditioned=CONDITIONED, chosen="chosen * 1.01")
    told = "at stage 0 `choose` returns other deltas for options", "leave `choose` to the base class"
    checked.tells(source, *told, "decoding returns another reconstruction than encoding")


def test_a_head_that_ignores_the_stage_it_claims_is_told(checked: Checked) -> None:
    source = HEAD.format(conditioned="features", chosen="chosen")
    told = "registered as dependent on the stage, but returns the same at stages 0 and 1", "`staged=False`"
    checked.tells(source, *told, "parameter `condition.scales` (3, 8) receives no gradient")


def test_an_exception_is_told_with_the_plugins_own_line(checked: Checked) -> None:
    source = BLOCK.format(layer="None", yielded="self.map(features)[7]")
    told = "IndexError", f"({checked.folder / 'broken.py'}:16)", "an error stopped the check: "
    checked.tells(source, *told)


def test_a_missing_example_is_asked_for(checked: Checked) -> None:
    source = BLOCK.replace("stages):", "stages, *, depth: int):").format(layer="None", yielded="self.map(features)")
    checked.tells(source, "`depth` is missing; expected a whole number", "`example={…}`", "Register it with settings")


def test_a_syntax_error_is_told_with_its_line(checked: Checked) -> None:
    path = checked.folder / "broken.py"
    path.write_text("import torch\ndef block(:\n")
    checked.tells_of_loading(path, f"{path}:2", "SyntaxError")


def test_a_name_that_is_taken_is_told_with_both_places(checked: Checked) -> None:
    path = checked.folder / "broken.py"
    path.write_text(BLOCK.replace('"broken"', '"conv"').format(layer="None", yielded="self.map(features)"))
    checked.tells_of_loading(path, "block 'conv' is registered twice", "blocks/conv.py:", f"{path}:6", "another name")


@pytest.mark.parametrize("imports", ["from .{} import {}", "from . import {}\nit = {}.nothing"])
def test_an_import_cycle_is_told_with_its_modules(checked: Checked, imports: str) -> None:
    package = checked.folder / "ring"
    package.mkdir()
    (package / "__init__.py").write_text("from . import one\n")
    (package / "one.py").write_text(imports.format("two", "two") + "\none = 1\n")
    (package / "two.py").write_text(imports.format("one", "one") + "\ntwo = 2\n")
    told = "ring", "two.py:", "import cycle: ring.one → ring.two → ring.one", "a separate module"
    checked.tells_of_loading(package, *told)


def test_a_plugin_that_registers_nothing_is_told_how_to(checked: Checked) -> None:
    path = checked.folder / "broken.py"
    path.write_text("class Block:\n    pass\n")
    checked.tells_of_loading(path, f"{path}: it registers no component", '@blocks.register("my_block")')
