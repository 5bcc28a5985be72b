"""The models that ship with the package, and weights in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vqtk
from tests.running import TINY, vqtk_main
from tests.tiny import shipped as shipped_digits
from vqtk.datasets import fixed_subset
from vqtk.evaluate.evaluation import evaluate
from vqtk.io.weights import PRETRAINED, load_weights, save_weights, shipped, weights_of
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_model_has_a_card_and_half_precision(name: str) -> None:
    path = weights_of(Path(name))
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    model = vqtk.load(name)
    card = (PRETRAINED / f"{name}.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in card
    assert f"{model.bits:g} bits" in card
    assert f"`{name}`" in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_shipped_models_are_small() -> None:
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) <= 12e6


@pytest.mark.parametrize("name", ["mnist", "mnist_quick", "celeba_32"])
def test_a_shipped_model_is_that_of_its_recipe(name: str) -> None:
    _, recipe = load_weights(weights_of(Path(name)))
    expected = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert {**recipe.plain(), "train": None} == {**expected.plain(), "train": None}


@pytest.mark.parametrize(("name", "most"), [("mnist", 0.15), ("mnist_quick", 0.1)])
def test_a_shipped_model_reconstructs_digits(name: str, most: float, tmp_path: Path) -> None:
    model = vqtk.load(name)
    digits = shipped_digits(tmp_path).test
    found = evaluate(model, digits, items=fixed_subset(digits, 60, seed=0))
    assert model.dtype == torch.float32
    assert found.distortion[9] is not None
    assert found.distortion[9] < most
    assert sorted(found.distortion, reverse=True) == found.distortion  # type: ignore[type-var]


def test_a_folder_of_that_name_goes_before_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").write_bytes(b"")
    assert weights_of(Path("mnist")) == Path("mnist")


def test_export_writes_what_every_command_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    recipe = load_recipe(tmp_path / "tiny.yaml")
    model = build_model(recipe)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, model, recipe, update=3)
    assert vqtk_main(monkeypatch, "export", whole, "-o", half, "--half") == 0
    assert str(half) in capsys.readouterr().out
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    loaded, same = load_weights(half)
    assert same.plain() == recipe.plain()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.half().float())
    assert vqtk_main(monkeypatch, "sample", half, "-n", "4", "-o", tmp_path / "it.png") == 0
