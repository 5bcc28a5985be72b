"""What is too large is refused in one line, before memory or time is spent on it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity import ROOT
from tests.running import vqtk_main
from vqtk.errors import RecipeError
from vqtk.recipe.recipe import load_recipe

MNIST = ROOT / "recipes" / "mnist.yaml"
ALIASES = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)),
    ]
)
FILES = {
    "nested lists": ("name: deep\nmodel: " + "[" * 1000 + "]" * 1000, "nested more than 60 levels deep"),
    "nested mappings": ("\n".join(" " * i + "a:" for i in range(500)), "nested more than 60 levels deep"),
    "brackets without an end": ("model: " + "{a: " * 10_000, "nested more than 60 levels deep"),
    "aliases of aliases": (ALIASES, "more than 10,000 values, aliases written out"),
    "many values": ("a: [" + "1, " * 50_000 + "1]", "more than 10,000 values"),
    "a large file": ("# " + "x" * (2 << 20), "characters are no recipe"),
}


@pytest.mark.parametrize(("text", "told"), FILES.values(), ids=FILES)
def test_a_recipe_out_of_all_measure_is_refused_at_once(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=told) as refused:
        load_recipe(path)
    assert len(str(refused.value)) < 500
    assert time.monotonic() - began < 30
    assert vqtk_main(monkeypatch, "run", path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.yaml").write_text(f"extends: {index + 1}.yaml\n")
    with pytest.raises(RecipeError, match="a chain of more than 20 recipes"):
        load_recipe(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.refiner.blocks.0.repeat=1000000000", "from 1 to 1,000"),
        ("model.stages=1000000000", "model.stages: expected a whole number from 1 to 10,000"),
        ("model.options=1000000000", "model.options: expected a whole number from 2 to 65,536"),
        (".".join(["a"] * 5000) + "=1", "a path of 5000 keys"),
        ("model.refiner.blocks." + "9" * 10_000 + ".width=1", "expected an index"),
        ("model.refiner.blocks=" + "[" * 2000, "nested more than 60 levels deep"),
        ("model.stages=" + "9" * 10_000, "model.stages"),
    ],
    ids=["repeat", "stages", "options", "keys", "index", "nested", "digits"],
)
def test_an_override_out_of_all_measure_is_refused(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as refused:
        load_recipe(MNIST, [override])
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("key", ["recipe", "facts", "plugins"])
def test_nested_json_inside_weights_is_refused(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {"recipe": "{}", "facts": "{}", "plugins": "[]"}
    nested = [json.dumps({"model": None}).replace("null", "[" * 900 + "]" * 900), "[" * 100_000]
    for text in nested:
        save_file({"a": torch.zeros(1)}, "it.safetensors", {"format": "vqtk", **plain, key: text})
        assert vqtk_main(monkeypatch, "sample", "it.safetensors") == 2
