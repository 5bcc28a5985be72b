"""`vqtk tree`: the tree of decisions as boxes in boxes, in the plane, and as lines."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.refusing import Refusing
from tests.running import vqtk_main
from tests.test_looking import built, items, words
from tests.test_toy2d import RECIPE
from vqtk.errors import VqtkError
from vqtk.io.weights import save_weights
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.render.sheets import mosaic
from vqtk.render.tree import tree


def plane(*overrides: str) -> Any:
    return build_model(load_recipe(RECIPE, overrides)).eval()


def test_every_node_is_what_its_codes_decode_to() -> None:
    model = plane("model.stages=3", "model.options=4")
    _, grown = tree(model, prefix=[2])
    assert [len(level.codes) for level in grown] == [1, 4, 16]
    assert grown[2].codes.tolist() == [[2, a, b] for a in range(4) for b in range(4)]
    for level in grown:
        torch.testing.assert_close(level.shown, model.decode(level.codes).detach())


def test_the_most_used_options_are_those_of_the_items_that_come_through_a_node() -> None:
    model = plane("model.stages=3", "model.options=4")
    used = torch.tensor([[3, 1, 0], [3, 1, 1], [3, 2, 0], [0, 2, 0], [3, 1, 0], [0, 2, 0], [1, 0, 0]])
    _, grown = tree(model, levels=2, options=2, used_by=used)
    assert grown[1].codes.tolist() == [[3], [0]]
    assert grown[2].codes.tolist() == [[3, 1], [3, 2], [0, 2], [0, 0]]
    assert [level.taken.tolist() for level in grown] == [[True], [True] * 2, [True, True, True, False]]
    with pytest.raises(VqtkError, match="--used: none of the 7 examples passes through the prefix 2"):
        tree(model, prefix=[2], options=2, used_by=used)


def test_options_that_no_item_takes_are_not_shown() -> None:
    numbers, codes = [[9], [10, 11], [20, 21, 22, 23]], [[[]], [[0], [1]], [[0, 0], [0, 1], [1, 0], [1, 1]]]
    taken = [torch.tensor(level) for level in ([True], [True, True], [True, False, True, True])]
    shown = (mosaic([coloured(level) for level in numbers], codes, taken, alt="").pixels[0] * 255).round()
    assert [bool((shown == number).any()) for number in (20, 21, 22, 23)] == [True, False, True, True]
    model, _ = built("text")
    sheet, _ = tree(model, levels=2, options=2, used_by=torch.tensor([[3, 1, 0], [3, 2, 0], [3, 1, 0]]))
    labels = [line.split()[0] for line in str(sheet.plain).splitlines() if line]
    assert labels == ["3", "3,1", "3,2"]
    sheet, grown = tree(plane("model.stages=3", "model.options=4"), used_by=torch.tensor([[3, 1, 0]]), options=2)
    assert sum(int(level.taken.sum()) for level in grown[1:]) == 3


def test_options_are_the_first_where_nothing_says_which_are_used() -> None:
    _, grown = tree(plane(), levels=2, options=3)
    assert grown[2].codes.tolist() == [[a, b] for a in range(3) for b in range(3)]


def test_by_default_points_show_all_stages_that_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plane("model.stages=3", "model.options=4")
    assert len(tree(model)[1]) == 4
    monkeypatch.setattr("vqtk.render.tree.MOST_NODES", 4 + 16)
    assert len(tree(model)[1]) == 3


def coloured(numbers: list[int]) -> Tensor:
    """Pictures of one colour each, by their number."""
    return torch.tensor(numbers).float().reshape(-1, 1, 1, 1).expand(-1, 3, 4, 6) / 255


@pytest.mark.parametrize("prefix", [[], [3]])
def test_a_mosaic_shows_every_picture_once_and_children_in_the_box_of_their_parent(prefix: list[int]) -> None:
    codes = [[prefix], [[*prefix, a] for a in range(4)], [[*prefix, a, b] for a in range(4) for b in range(4)]]
    numbers = [[9], list(range(10, 14)), list(range(20, 36))]
    taken = [torch.ones(len(level), dtype=torch.bool) for level in numbers]
    sheet = mosaic([coloured(level) for level in numbers], codes, taken, alt="a tree")
    shown = (sheet.pixels[0] * 255).round()
    places = {n: (shown == n).nonzero().double() for level in numbers for n in level}
    leaf = len(places[20])
    assert {len(places[n]) for n in range(20, 36)} == {leaf}
    assert {len(places[n]) for n in range(10, 14)} == {4 * leaf}
    assert len(places[9]) == (4 * leaf if prefix else 0)
    boxes = []
    for parent in range(4):
        children = [places[20 + 4 * parent + child].mean(0) for child in range(4)]
        assert all(places[10 + parent][:, 0].max() < child[0] for child in children)
        whole = torch.cat([places[10 + parent], *(places[20 + 4 * parent + child] for child in range(4))])
        boxes.append((whole.min(0).values, whole.max(0).values))
        assert children[0][0] == children[1][0] < children[2][0] == children[3][0]
        assert children[0][1] == children[2][1] < children[1][1] == children[3][1]
    for (low, high), (other_low, other_high) in itertools.combinations(boxes, 2):
        assert (high < other_low).any() or (other_high < low).any()


def test_a_mosaic_is_enlarged_or_reduced_to_be_easily_seen() -> None:
    codes = [[[]], [[option] for option in range(4)]]
    for side, across in ((4, 16), (3000, 1800)):
        level = torch.zeros(4, 1, 8, side)
        sheet = mosaic([level[:1], level], codes, [torch.ones(1), torch.ones(4)], alt="")
        black = (sheet.pixels[0, :across] == 0)[4:].any(0).sum()
        assert black == pytest.approx(2 * across, abs=4)


def test_text_is_an_indented_tree_of_what_prefixes_decode_to() -> None:
    model, _ = built("text")
    sheet, grown = tree(model, levels=2, options=2)
    lines = sheet.plain.splitlines()  # type: ignore[union-attr]
    assert [line.split()[0] for line in lines if line] == ["0", "0,0", "0,1", "1", "1,0", "1,1"]
    shown = words(model, model.decode(torch.tensor([[1, 0]])).argmax(-1))[0]
    (line,) = [line for line in lines if line.startswith("1,0")]
    assert line == f"1,0    {shown}"
    assert [len(level.codes) for level in grown] == [1, 2, 4]
    assert len(tree(model)[1]) == 2


@pytest.mark.parametrize("kind", ["image", "voxels"])
def test_pictures_and_voxels_are_mosaics(kind: str) -> None:
    model, _ = built(kind)
    used = model.encode(items(kind))
    sheet, grown = tree(model, prefix=used[0, :1].tolist(), levels=2, options=2, used_by=used)
    assert sheet.suffix == ".png"
    assert f"below the prefix {used[0, 0]}" in sheet.alt  # type: ignore[attr-defined]
    assert grown[2].codes.shape == (4, 3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prefix": [1, 2, 3, 4]}, "nothing below a whole code"),
        ({"prefix": [8]}, "options of this model, from 0 to 7"),
        ({"levels": 5}, "1 to 4, the stages below the root"),
        ({"levels": 3, "prefix": [0, 1]}, "1 to 2, the stages below the prefix 0,1"),
        ({"options": 9}, "1 to 8, the options of this model"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(VqtkError, match=told):
        tree(plane(), **settings)


def test_too_many_nodes_are_refused() -> None:
    with pytest.raises(VqtkError, match=r"20 options at each node make 8,420 nodes; at most 6,000 can be shown"):
        tree(plane("model.options=20"), levels=3)


def test_the_command_writes_a_tree_and_tells_its_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(RECIPE, ["model.stages=3", "model.options=4", "data.items=10"])
    save_weights(tmp_path / "small.safetensors", build_model(recipe), recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTK_DATA", str(tmp_path))
    assert vqtk_main(monkeypatch, "tree", "small.safetensors", "--prefix", "3,0") == 0
    assert capsys.readouterr().out == "small_tree_3_0.png\n"
    chosen = ["--options", "2", "--used", "50", "--levels", "1", "--json"]
    assert vqtk_main(monkeypatch, "tree", "small.safetensors", *chosen) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["levels"], told["nodes"], len(told["codes"])) == ("small_tree.png", 1, 2, 2)
    refusing = Refusing(monkeypatch, capsys)
    refusing.tells("tree", "small.safetensors", "--prefix", "3;0", told=["codes separated by commas"])
    refusing.tells("tree", "small.safetensors", "--used", "9", told=["Give both, as in --options 8."])
