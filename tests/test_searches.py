"""Searches find what a textbook finds, and never less than they were given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity import ROOT
from tests.running import vqtk_main, without_data
from vqtk.errors import RecipeError
from vqtk.heads import Factors
from vqtk.models.vqdraw import VQDraw
from vqtk.recipe.build import build_model, build_search
from vqtk.recipe.recipe import load_recipe
from vqtk.searches import beam as module
from vqtk.searches.beam import Beam
from vqtk.searches.greedy import Greedy
from vqtk.searches.polish import Polish

UNITS = "[{width: 6, kernel: 3, stride: 2}, {width: 6, kernel: 3, stride: 2}]"
PARTS = f"backbone: {{name: conv, layers: {UNITS}}}, blocks: [], head: {{name: conv, layers: {UNITS}}}"
PARTS = "upsample: 2".join(PARTS.rsplit("stride: 2", 2))  # The head's units.
SMALL = ["model.stages=4", "model.options=5"]
REFINERS = {"mnist": "{", "mnist_lowrank": "{", "mnist_recurrent": "{name: recurrent, memory: 3, "}


def model_of(name: str, *overrides: str) -> VQDraw:
    """A small untrained model of a recipe, whose deltas differ enough for searches to matter."""
    torch.manual_seed(0)
    parts = PARTS.replace("head: {name: conv", "head: {name: lowrank, rank: 3") if name == "mnist_lowrank" else PARTS
    refiner = f"model.refiner={REFINERS[name]}{parts}, output_scale: 3}}"
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", [*SMALL, refiner, *overrides])
    model = build_model(recipe).eval()
    assert isinstance(model, VQDraw)
    torch.nn.init.normal_(model.bias, std=0.5)
    return model.double()


def targets(model: VQDraw, n: int = 6) -> Tensor:
    return torch.randn(n, *model.data.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def textbook_beam(model: VQDraw, target: Tensor, width: int) -> list[int]:
    """One example, one prefix at a time."""
    kept = [((), *model.start(1))]
    for stage in range(model.stages):
        found = []
        for codes, x, state in kept:
            deltas, carry = model.step(x, state, stage)
            for option in range(model.options):
                new = x + deltas[:, option]
                after = model.advance(stage, carry, torch.tensor([option]), new) if model.stateful else None
                found.append((model.loss(new[:, None], target[None]).item(), (*codes, option), new, after))
        kept = [one[1:] for one in sorted(found, key=lambda one: one[0])[:width]]
    return list(kept[0][0])


def loss_of(model: VQDraw, codes: Tensor, target: Tensor) -> Tensor:
    return model.loss(model.decode(codes)[:, None], target)[:, 0]


@pytest.fixture(params=["mnist", "mnist_lowrank", "mnist_recurrent"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VQDraw:
    """Without a state, with options that are scored by factors, and with a state."""
    if request.param == "mnist_lowrank":  # Factors would not pay for so few options.
        monkeypatch.setattr(Factors, "pay", lambda *sizes: True)
    return model_of(request.param)


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 3, 30])
def test_a_beam_is_the_textbooks(width: int, model: VQDraw, monkeypatch: pytest.MonkeyPatch) -> None:
    target = targets(model)
    expected = torch.tensor([textbook_beam(model, one, width) for one in target])
    found = model.encode(target, search=Beam(width=width))
    assert torch.equal(found, expected)
    if width == 1:
        assert torch.equal(found, model.encode(target))
    values = 5 * target[0].numel()
    monkeypatch.setattr(module, "MOST_VALUES", 2 * width * values)
    monkeypatch.setattr(module, "AT_ONCE", 3 * values)
    assert torch.equal(model.encode(target, search=Beam(width=width)), expected), "in parts"


@torch.no_grad()
def test_polishing_makes_no_code_worse_and_some_better(model: VQDraw) -> None:
    target = targets(model, 12)
    greedy = model.encode(target)
    before, once, twice = (
        loss_of(model, codes, target)
        for codes in (
            greedy,
            model.encode(target, search=Polish(after=Greedy, tries=5)),
            model.encode(target, search=Polish(after=Greedy, tries=5, sweeps=2)),
        )
    )
    assert (once <= before).all()
    assert (twice <= once).all()
    assert (once < before).any()


@torch.no_grad()
def test_polishing_one_stage_tries_every_option_there() -> None:
    model = model_of("mnist", "model.stages=1")
    target = targets(model)
    greedy = model.encode(target)
    spoiled = (greedy + 1) % model.options
    polished = model.encode(target, search=Polish(after=lambda: lambda model, target: spoiled, tries=4))
    assert torch.equal(polished, greedy)


def test_a_recipe_chooses_a_search() -> None:
    search = "model.search={name: polish, after: {name: beam, width: 3}}"
    made = build_model(load_recipe(ROOT / "recipes" / "mnist.yaml", [*SMALL, search]))
    assert isinstance(made, VQDraw)
    assert isinstance(made.search, Polish)
    assert isinstance(made.search.after, Beam)
    assert made.search.after.width == 3


def test_a_search_is_named_by_its_first_setting_or_as_in_a_recipe() -> None:
    assert isinstance(build_search("greedy"), Greedy)
    assert build_search("beam:8").width == 8  # type: ignore[attr-defined]
    polish = build_search("{name: polish, after: {name: beam, width: 2}, tries: 3}")
    assert (polish.after.width, polish.tries) == (2, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("beem:4", "Did you mean 'beam'"),
        ("beam:none", "expected a whole number"),
        ("beam:0", "expected a whole number"),
        ("{name: beam, wide: 3}", "wide"),
        ("", "expected"),
    ],
)
def test_a_search_that_is_none_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match="--search") as refused:
        build_search(text, origin="--search")
    assert told in str(refused.value)


def test_eval_and_pictures_encode_by_the_search_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    errors = {}
    for search in ("greedy", "beam:4"):
        assert vqtk_main(monkeypatch, "eval", "mnist", "--items", "12", "--search", search, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["search"] == search
        errors[search] = found["stages"][-1]["distortion"]
        assert (
            vqtk_main(monkeypatch, "reconstruct", "mnist", "-n", "2", "--search", search, "-o", f"{search[:4]}.png")
            == 0
        )
        capsys.readouterr()
    assert errors["beam:4"] < errors["greedy"]
    assert Path("beam.png").read_bytes() != Path("gree.png").read_bytes()
