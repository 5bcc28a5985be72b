"""`vqtk plugin new`: for each registry, a plugin that works, with a test that passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.refusing import Refusing
from tests.running import vqtk_main
from vqtk.plugin.loading import load_plugin
from vqtk.plugin.sources import new_plugin
from vqtk.registry import REGISTRIES
from vqtk.testing import plugin_contract


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_new_plugin_registers_its_name_and_keeps_to_its_contract(kind: str, tmp_path: Path) -> None:
    plugin, test = new_plugin("my_own", kind, tmp_path)
    assert (plugin.name, test.name) == ("my_own.py", "test_my_own.py")
    ((registry, entry),) = load_plugin(plugin).entries
    assert (registry.kind, entry.name, entry.component.__name__) == (kind, "my_own", "MyOwn")
    placeholder = r"\bExample\b|[\"'`]example[\"'`]|\bexample\.py|(name: |condition: |mnist )example\b"
    assert not re.search(placeholder, plugin.read_text())
    checks = plugin_contract(plugin)
    assert len(checks) >= 3
    for check in checks:
        check()


def test_a_new_plugins_own_test_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vqtk_main(monkeypatch, "plugin", "new", "doubt", "--registry", "selector", "--out", "parts") == 0
    capsys.readouterr()
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", "parts"]) == 0
    assert " passed" in capsys.readouterr().out


def test_a_class_does_not_take_the_name_of_what_the_template_imports(tmp_path: Path) -> None:
    plugin, _ = new_plugin("tensor", "condition", tmp_path)
    ((_, entry),) = load_plugin(plugin).entries
    assert entry.component.__name__ == "TensorCondition"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine", "--registry", "blok"], "there is no registry 'blok'. Did you mean 'block'? Known: model"),
        (["My-Block", "--registry", "block"], "'My-Block' cannot be a plugin's name, which is that of its file"),
        (["conv", "--registry", "block"], "there is already a block called 'conv': "),
        (
            ["there", "--registry", "block"],
            "there.py: this file exists. Choose another name, or another folder with --out",
        ),
    ],
)
def test_a_plugin_that_cannot_be_written_is_told(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.py").write_text("")
    Refusing(monkeypatch, capsys).tells("plugin", "new", *arguments, told=[told])
    assert Path("there.py").read_text() == ""
