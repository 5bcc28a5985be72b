"""What commands show: pictures, voxels and text, as files, in the terminal, as HTML and as meshes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from tests.parity import ROOT, shared
from tests.refusing import Refusing
from tests.running import vqtk_main
from vqtk.errors import VqtkError
from vqtk.io.weights import save_weights
from vqtk.models.vqdraw import VQDraw
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.render import pictures, text
from vqtk.render.labelled import numbered_rows, write_labelled
from vqtk.render.sheets import ImageSheet
from vqtk.render.text import as_text
from vqtk.render.voxels import render_voxels

SMALL = ["model.stages=3", "model.segment=2", "model.options=4", "model.refiner.blocks=[]"]
RECIPES = {
    "image": ("mnist", ["model.stages=3", "model.options=4", "model.refiner.blocks=[]"]),
    "voxels": ("modelnet", [*SMALL, "data.size=8"]),
    "text": ("wikitext2", [*SMALL, "data.length=30", "data.vocabulary=20"]),
}
CHARACTERS = "\n abcdefghijklmnopqr"
SUFFIX = {"image": ".png", "voxels": ".png", "text": ".txt"}


def built(kind: str) -> tuple[Any, Any]:
    name, overrides = RECIPES[kind]
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides)
    model = build_model(recipe).eval()
    if kind == "text":
        model.data = dataclasses.replace(model.data, characters=CHARACTERS)
    return model, recipe


def items(kind: str, n: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(0)
    if kind == "text":
        return torch.randint(20, (n, 30), generator=g)
    return torch.randn(n, 1, 28, 28, generator=g) if kind == "image" else noise(n, 8, 0.3)


def noise(n: int, side: int, solid: float, seed: int = 0) -> Tensor:
    return (torch.rand(n, 1, side, side, side, generator=torch.Generator().manual_seed(seed)) < solid).float()


def words(model: Any, tokens: Tensor) -> list[str]:
    return ["".join(CHARACTERS[token] for token in row).replace("\n", "⏎") for row in tokens.tolist()]


def inked(picture: Tensor) -> int:
    return int((picture < 1).any(0).sum())


# ── voxels ───────────────────────────────────────────────────────────────────────────────────────


def test_only_what_is_probably_solid_is_drawn_and_the_rest_is_white() -> None:
    grids = noise(1, 6, 0.4)
    assert torch.equal(render_voxels(grids * 0.5), render_voxels(grids))
    assert render_voxels(grids[:0]).shape == (0, 3, 96, 96)


def test_a_grid_without_anything_solid_is_an_empty_box_and_no_blank_paper() -> None:
    empty, full = render_voxels(torch.full((1, 1, 6, 6, 6), 0.49))[0], render_voxels(torch.ones(1, 1, 6, 6, 6))[0]
    assert (empty[0] == empty[2]).all()
    assert 0.05 < inked(empty) / inked(full) < 0.4
    bounds = [
        torch.stack([place.amin(0), place.amax(0)]) for place in ((one < 1).any(0).nonzero() for one in (empty, full))
    ]
    assert (bounds[0] - bounds[1]).abs().max() <= 1


def test_what_lies_behind_or_inside_is_hidden() -> None:
    full = torch.ones(1, 1, 6, 6, 6)
    hollow = full.clone()
    hollow[..., 1:-1, 1:-1, 1:-1] = 0
    filled_with_noise = hollow.clone()
    filled_with_noise[..., 1:-1, 1:-1, 1:-1] = noise(1, 4, 0.5)
    assert torch.equal(render_voxels(hollow), render_voxels(full))
    assert torch.equal(render_voxels(filled_with_noise), render_voxels(full))


def test_the_third_axis_is_up_and_the_top_is_the_lightest_of_three_sides() -> None:
    heights = []
    for z in range(8):
        grid = torch.zeros(1, 1, 8, 8, 8)
        grid[0, 0, 4, 4, z] = 1
        heights.append((render_voxels(grid)[0] < 1).any(0).nonzero()[:, 0].float().mean().item())
    assert heights == sorted(heights, reverse=True)
    cube = render_voxels(torch.ones(1, 1, 8, 8, 8))[0].mean(0)
    column = cube[:, 48][cube[:, 48] < 1]
    assert column[5] > column[-5] * 1.2


def test_lines_of_sight_are_parallel_so_that_size_does_not_depend_on_place() -> None:
    small, moved, double = (torch.zeros(1, 1, 16, 16, 16) for _ in range(3))
    small[..., :4, :4, :4] = 1
    moved[..., 9:13, 10:14, 12:] = 1
    double[..., 4:12, 4:12, 4:12] = 1
    assert inked(render_voxels(moved)[0]) == pytest.approx(inked(render_voxels(small)[0]), rel=0.06)
    assert inked(render_voxels(double)[0]) == pytest.approx(4 * inked(render_voxels(small)[0]), rel=0.15)


def test_sides_may_differ_in_length() -> None:
    tall = render_voxels(torch.ones(1, 1, 2, 2, 8))[0]
    rows, columns = (tall < 1).any(0).nonzero().T
    assert rows.max() - rows.min() > 2 * (columns.max() - columns.min())


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_its_character_and_what_cannot_be_shown_has_a_sign() -> None:
    assert as_text([2, 0, 1, 3], "\n\tab") == "a⏎⇥b"
    assert as_text([0, 1, 2, 9], "a\x00\xa0") == "a� �"
    assert as_text([0, 5], None) == "��"


def test_characters_that_differ_are_marked_in_text_and_terminal() -> None:
    sheet = text.pair_lines(["<abc> & x", "same"], ["<aXc> & Y", "same"], [frozenset({2, 8}), frozenset()])
    lines = sheet.plain.splitlines()
    assert lines[1].endswith("<aXc> & Y")
    assert [lines[1][place.start()] for place in re.finditer(r"\^", lines[2])] == ["X", "Y"]
    assert "^" not in "".join(lines[3:])
    coloured = Console(force_terminal=True, width=60, file=io.StringIO(), color_system="standard")
    coloured.print(sheet.drawn(60))
    assert re.findall("\x1b\\[1;37;41m(.*?)\x1b", coloured.file.getvalue()) == ["X", "Y"]  # type: ignore[attr-defined]


def test_long_lines_are_continued_in_the_terminal_without_loss() -> None:
    sheet = text.sample_lines(["a b" * 40, "c"])
    console = Console(width=50, file=io.StringIO())
    console.print(sheet.drawn(50))
    printed = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 50 for line in printed)
    assert "".join(line[3:] for line in printed[:-1]) == "a b" * 40
    assert printed[-1] == "1  c"


def test_wide_characters_are_marked_below_their_whole_width() -> None:
    assert text.pair_lines(["日x"], ["本y"], [frozenset({0, 1})]).plain.splitlines()[2].strip() == "^^^"


def test_a_reconstruction_of_spaces_alone_is_wrong_only_where_the_item_has_none() -> None:
    model, _ = built("text")
    space = CHARACTERS.index(" ")
    target = torch.full((1, *model.data.shape), space)
    target[0, 3] = CHARACTERS.index("a")
    model.loss.show = lambda x: torch.full_like(target, space)  # type: ignore[method-assign]
    sheet = pictures.reconstructions(model, target)
    lines = str(sheet.plain).splitlines()
    assert set(lines[1].split()[1]) == {"·"}
    assert [place.start() for place in re.finditer(r"\^", lines[2])] == [
        lines[0].index("a", lines[0].rindex("example") + len("example"))
    ]


# ── sheets of models ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", RECIPES)
def test_a_run_leaves_pictures_of_its_kind(kind: str, tmp_path: Path) -> None:
    model, _ = built(kind)
    pictures.write_all(model, items(kind), tmp_path, 20)
    sorts = ("samples", "reconstructions", "stages", "proposals")
    names = {f"{sort}_00000020{SUFFIX[kind]}" for sort in sorts}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_texts_of_stages_are_those_that_prefixes_decode_to() -> None:
    model, _ = built("text")
    targets = items("text", 2)
    with torch.no_grad():
        codes = model.encode(targets)
        after = [words(model, model.decode(codes[:, : stage + 1]).argmax(-1)) for stage in range(3)]
    blocks = pictures.stages(model, targets).plain.rstrip("\n").split("\n\n")  # type: ignore[union-attr]
    for index, block in enumerate(blocks):
        expected = [f"stage {stage + 1}  {after[stage][index]}" for stage in range(3)]
        assert block.splitlines() == [*expected, f"example  {words(model, targets)[index]}"]


def test_the_chosen_option_is_marked() -> None:
    model, _ = built("text")
    sheet, chosen = pictures.proposals(model, items("text")[0], stage=1)
    assert chosen == model.encode(items("text")[:1])[0, 1]
    lines = sheet.plain.splitlines()  # type: ignore[union-attr]
    assert [line.startswith(f"> {index}") for index, line in enumerate(lines)] == [i == chosen for i in range(4)]


def test_items_are_encoded_a_few_at_a_time_to_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built("voxels")
    monkeypatch.setattr(pictures, "_VALUES_AT_ONCE", 2 * 4 * 8**3)
    seen: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda piece: (seen.append(len(piece)), encode(piece))[1])
    assert torch.equal(pictures.encoded(model, items("voxels")), encode(items("voxels")))
    assert seen == [2, 2, 1]


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=list(RECIPES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file of an untrained model; the test items are made up."""
    model, recipe = built(kind)
    save_weights(tmp_path / "model.safetensors", model, recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vqtk.cli.look.test_items", lambda *_: (items(kind, 2), [0, 1]))
    return Path("model.safetensors")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusing:
    return Refusing(monkeypatch, capsys)


LOOKING = ["sample -n 3", "reconstruct", "stages", "proposals --stage 2"]


@pytest.mark.parametrize("command", LOOKING)
def test_looking_writes_a_sheet_of_the_datas_kind_and_prints_text(
    command: str, kind: str, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command.split()
    assert vqtk_main(monkeypatch, name, weights, *options) == 0
    *printed, path = capsys.readouterr().out.splitlines()
    assert Path(path).suffix == SUFFIX[kind]
    assert printed == ([*Path(path).read_text().splitlines(), ""] if kind == "text" else [])
    assert vqtk_main(monkeypatch, name, weights, *options, "--json", "-o", f"out{SUFFIX[kind]}") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == f"out{SUFFIX[kind]}"
    assert ("chosen" if name == "proposals" else "codes") in told


@pytest.mark.parametrize("kind", ["voxels"])
def test_json_tells_codes_and_distortion(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = built("voxels")
    assert vqtk_main(monkeypatch, "reconstruct", weights, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    walk = model.walk(items("voxels", 2))
    assert told["codes"] == walk.codes.tolist()
    assert told["distortion"] == pytest.approx(walk.grid.min(2).values[:, -1].tolist(), rel=1e-5)
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "2", "--stages", "2", "--seed", "3", "--json") == 0
    drawn = model.random_codes(2, generator=torch.Generator().manual_seed(3))
    assert json.loads(capsys.readouterr().out)["codes"] == drawn[:, :2].tolist()


def test_a_path_of_another_suffix_is_refused(kind: str, weights: Path, refusing: Refusing) -> None:
    wrong = ".png" if kind == "text" else ".txt"
    what = "text is written as .txt" if kind == "text" else "images are written as .png or .svg or .pdf"
    told = [f"out{wrong}: {what}, not as {wrong}.", f"a path like out{SUFFIX[kind]}."]
    refusing.tells("sample", str(weights), "-n", "1", "-o", f"out{wrong}", told=told)
    assert not Path(f"out{wrong}").exists()


@pytest.mark.parametrize("kind", ["image"])
def test_a_model_of_whole_codes_has_no_stages_to_show(
    weights: Path, refusing: Refusing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(VQDraw, "stepwise", False)
    for command in ("stages", "proposals", "sample --stages 2"):
        name, *options = command.split()
        refusing.tells(name, str(weights), *options, told=["this model (VQDraw) decodes whole codes only"])
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "2") == 0
    pictures.write_all(built("image")[0], items("image"), tmp_path / "images", 1)
    assert {path.name.split("_")[0] for path in (tmp_path / "images").iterdir()} == {"samples", "reconstructions"}


# ── labels, formats and sizes ────────────────────────────────────────────────────────────────────


def svg_texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def enlarged(pictures: Tensor, scale: int) -> np.ndarray:
    """Images (n, 1, h, w) as bytes (n, scale h, scale w), laid out by hand."""
    return np.kron((pictures[:, 0].numpy() * 255).round(), np.ones((1, scale, scale))).astype(np.uint8)


@pytest.mark.parametrize("kind", ["image"])
def test_a_bare_sheet_is_the_images_alone_in_rows(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built("image")
    codes = torch.tensor([[1, 2, 3], [0, 0, 0], [3, 1, 2]])
    monkeypatch.setattr("vqtk.render.pictures.random_codes", lambda *_, **__: codes)
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "3", "--columns", "2", "--bare", "-o", "bare.png") == 0
    with torch.no_grad():
        first, second, third = enlarged(model.data.pixels(model.decode(codes)), 10)
    across, white = np.full((280, 20), 255), np.full((20, 620), 255)
    empty = np.full_like(third, 255)
    rows = [np.hstack([across, left, across, right, across]) for left, right in ((first, second), (third, empty))]
    with Image.open("bare.png") as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image)[..., 1], np.vstack([white, rows[0], white, rows[1], white]))


def test_labels_are_text_around_images_enlarged_by_a_whole_number(tmp_path: Path) -> None:
    model, _ = built("image")
    targets = items("image", 2).sigmoid()
    sheet = pictures.stages(model, targets, indices=[17, 42])
    assert isinstance(sheet, ImageSheet)
    paths = [tmp_path / name for name in ("a.svg", "b.svg", "a.pdf", "b.pdf", "a.png", "b.png")]
    for path in paths:
        write_labelled(sheet, path, title="costs $5, not $6", format=path.suffix[1:])
    stages = ["stage 1 · 2 bits", "stage 2 · 4 bits", "stage 3 · 6 bits", "input"]
    assert svg_texts(paths[0]) == ["costs $5, not $6", "17", "42", "test example", *stages]
    assert paths[2].read_bytes().startswith(b"%PDF")
    assert b"/FontFile2" in paths[2].read_bytes(), "fonts are embedded as TrueType"
    for one, again in zip(paths[::2], paths[1::2], strict=True):
        assert one.read_bytes() == again.read_bytes()
    with Image.open(paths[4]) as image:
        pixels = np.asarray(image.convert("L"))
    (target,) = enlarged(model.data.pixels(targets[1:]), 7)
    places = [row.tobytes().find(target[0].tobytes()) for row in pixels]
    left, top = max(places), places.index(max(places))
    assert np.array_equal(pixels[top : top + len(target), left : left + len(target)], target)


def test_a_pair_of_rows_numbers_its_examples_and_a_row_of_samples_its_own(tmp_path: Path) -> None:
    model, _ = built("image")
    pairs = pictures.reconstructions(model, items("image", 3), columns=2, indices=[5, 6, 7])
    codes = model.random_codes(5, generator=torch.Generator())
    for name, sheet in (("pairs", pairs), ("samples", pictures.decoded(model, codes, columns=2))):
        assert isinstance(sheet, ImageSheet)
        write_labelled(sheet, tmp_path / f"{name}.svg", title="T", format="svg")
    pair = ["input", "reconstruction"]
    assert svg_texts(tmp_path / "pairs.svg") == ["T", "5", "6", "test example", *pair, "7", "test example", *pair]
    assert svg_texts(tmp_path / "samples.svg") == ["T", "samples 0–1", "samples 2–3", "sample 4"]


@pytest.mark.parametrize("kind", ["image"])
def test_the_suffix_or_an_option_chooses_the_format_and_contradictions_are_refused(
    weights: Path, refusing: Refusing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ("sample", str(weights), "-n", "2")
    assert vqtk_main(monkeypatch, *sample, "--format", "pdf", "--dpi", "60") == 0
    assert capsys.readouterr().out == "model_samples.pdf\n"
    assert Path("model_samples.pdf").read_bytes().startswith(b"%PDF")
    assert vqtk_main(monkeypatch, *sample, "-o", "out.svg") == 0
    assert svg_texts(Path("out.svg")) == ["mnist: 2 samples of 6 bits; codes drawn uniformly,", "seed 0", "samples 0–1"]
    assert vqtk_main(monkeypatch, *sample, "-o", "bare.svg", "--bare") == 0
    assert svg_texts(Path("bare.svg")) == []
    refusing.tells(*sample, "-o", "a.svg", "--format", "pdf", told=["a.svg: --format pdf contradicts the suffix .svg."])
    refusing.tells(*sample, "-o", "a.svg", "--dpi", "300", told=["--dpi 300: an SVG file is scaled freely."])
    refusing.tells(*sample, "--bare", "--dpi", "300", told=["--dpi 300: with --bare, the sheet decides its pixels."])
    refusing.tells(*sample, "--dpi", "601", told=["less than or equal to 600"])
    refusing.tells(*sample, "--format", "gif", told=["gif"])
    assert not Path("a.svg").exists()


@pytest.mark.parametrize("kind", ["text"])
def test_text_has_no_format_of_images(weights: Path, refusing: Refusing) -> None:
    refusing.tells("sample", str(weights), "-n", "1", "--format", "svg", told=["this model's data are text"])


def test_a_sheet_of_very_many_rows_is_refused_with_labels(tmp_path: Path) -> None:
    tall = torch.zeros(3, 30 * 9000, 30)
    sheet = ImageSheet(tall, "", labels=numbered_rows(torch.zeros(9000, 1, 28, 28), 1, "sample"))
    with pytest.raises(VqtkError, match="pixels; with labels, it can have 65,536 in each direction"):
        write_labelled(sheet, tmp_path / "tall.png", title="T")


# ── meshes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def trimesh() -> Any:
    pytest.importorskip("skimage", reason="meshes need vqtk[voxels]")
    return pytest.importorskip("trimesh", reason="meshes need vqtk[voxels]")


@pytest.mark.parametrize("solid", [0.02, 0.3, 0.5, 0.8, 1.0])
def test_a_mesh_of_noise_up_to_the_border_is_watertight(solid: float, trimesh: Any, tmp_path: Path) -> None:
    from vqtk.render.voxels import write_meshes

    written, empty = write_meshes(noise(6, 8, solid, seed=1), tmp_path)
    assert len(written) + len(empty) == 6
    for path in written:
        mesh = trimesh.load(path)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0
        assert mesh.bounds.min() >= 0
        assert mesh.bounds.max() <= 8


def test_a_mesh_of_a_real_chair_is_watertight_and_as_large_as_the_chair(trimesh: Any, tmp_path: Path) -> None:
    from vqtk.render.voxels import write_meshes

    files = sorted(shared("data", "modelnet", "voxels32", "chair", "test").glob("*.npz"))[:3]
    grids = torch.from_numpy(np.stack([np.load(file)["voxels"] for file in files]))[:, None].float()
    written, _ = write_meshes(grids, tmp_path)
    for path, grid in zip(written, grids, strict=True):
        mesh = trimesh.load(path)
        assert mesh.is_watertight
        places = grid[0].nonzero()
        np.testing.assert_array_equal(mesh.bounds, [places.min(0).values.numpy(), places.max(0).values.numpy() + 1])


@pytest.mark.parametrize("kind", ["voxels"])
def test_samples_are_written_as_meshes_and_empty_ones_are_said(
    weights: Path, trimesh: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = noise(3, 8, 0.5)
    full[1] = 0
    monkeypatch.setattr("vqtk.render.pictures.shown_as", lambda *_: full)
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "3", "--stl", "meshes") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "meshes: 2 meshes; skipped as empty: sample 1"
    assert sorted(path.name for path in Path("meshes").iterdir()) == ["sample_000.stl", "sample_002.stl"]
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "3", "--stl", "meshes", "--json", "--force") == 0
    assert json.loads(capsys.readouterr().out)["empty"] == [1]


def test_meshes_of_other_data_and_without_their_libraries_are_refused(
    kind: str, weights: Path, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    told = (
        f"--stl: this model's data are of kind {kind}; only voxels"
        if kind != "voxels"
        else "pip install 'vqtk[voxels]'"
    )
    refusing.tells("sample", str(weights), "-n", "1", "--stl", "meshes", told=[told])
    assert not Path("meshes").exists()
