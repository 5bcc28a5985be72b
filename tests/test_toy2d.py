"""Points of the plane: the densities, vectors through the layers, and the fastest run from end to end that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tests.parity import ROOT
from tests.running import vqtk_main
from tests.tiny import Watching
from vqtk.backbones.mlp import MLPBackbone
from vqtk.conditions.film import Film
from vqtk.conditions.scale import Scale
from vqtk.datasets._densities import DENSITIES
from vqtk.datasets.toy2d import Toy2D
from vqtk.errors import DataError, RecipeError, ShapeError
from vqtk.evaluate.evaluation import evaluate
from vqtk.heads.conv import ConvHead
from vqtk.io.weights import load_weights, weights_of
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.render import pictures
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import run_experiment

RECIPE = ROOT / "recipes" / "toy2d.yaml"
SHORT = [
    "train.updates=100",
    "data.batch=64",
    "data.items=4000",
    "data.test=200",
    "train.evaluate_every=50",
    "train.picture_items=20",
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ── the data ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("density", DENSITIES)
def test_a_density_is_drawn_by_its_seed_and_lies_in_about_unit_range(density: str, tmp_path: Path) -> None:
    splits, again, other = (Toy2D(density=density, items=3000, test=500, seed=s).load(tmp_path) for s in (0, 0, 1))
    every, test = splits.train.items, splits.test.items
    assert every.shape == (3000, 2)
    assert every.dtype == torch.float32
    assert 0.7 < every.abs().max() < 1.3
    assert every.mean(0).abs().max() < 0.06
    assert torch.equal(again.train.items, every)
    assert not torch.equal(other.train.items, every)
    assert not (test[:, None] == every).all(2).any()
    counts = splits.train.labels.bincount()
    assert (counts > 0.1 * len(every) / len(counts)).all()


def test_the_test_points_do_not_depend_on_how_many_there_are_to_train_on(tmp_path: Path) -> None:
    one, other = (Toy2D(items=items, test=50).load(tmp_path).test.items for items in (10, 1000))
    assert torch.equal(one, other)


def test_points_of_the_board_lie_on_its_dark_squares_and_those_of_the_rings_near_their_radii(tmp_path: Path) -> None:
    board = Toy2D(density="checkerboard", items=500).load(tmp_path).train.items
    squares = ((board + 1) * 2).floor().long()
    assert (squares.sum(1) % 2 == 0).all()
    rings = Toy2D(density="rings", items=500).load(tmp_path).train
    radii = rings.items.norm(dim=1)
    assert_close(radii, 0.3 * (rings.labels + 1), atol=0.1, rtol=0)


def test_a_picture_is_dark_where_its_points_are(tmp_path: Path) -> None:
    grey = np.full((64, 96), 250, np.uint8)
    grey[:16, 16:32] = 0
    grey[48:, 64:80] = 125
    Image.fromarray(grey).save(tmp_path / "two.png")
    points = Toy2D(density="image", path="two.png", items=3000).load(tmp_path).train.items
    above, below = points[points[:, 1] > 0], points[points[:, 1] <= 0]
    assert len(above) / len(below) == pytest.approx(2, rel=0.15)
    assert ((above > torch.tensor([-1.02, 0.48])) & (above < torch.tensor([-0.48, 1.02]))).all()
    assert ((below > torch.tensor([0.48, -1.02])) & (below < torch.tensor([1.02, -0.48]))).all()


def test_a_picture_that_is_missing_damaged_or_of_one_grey_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    Image.new("L", (8, 8), 200).save(tmp_path / "plain.png")
    told = {"none.png": "nothing is at", "torn.png": "cannot be read as an image", "plain.png": "a single grey value"}
    for path, message in told.items():
        with pytest.raises(DataError, match=message):
            Toy2D(density="image", path=path).load(tmp_path)
    with pytest.raises(DataError, match="`path` is needed"):
        Toy2D(density="image")
    with pytest.raises(DataError, match="is for `density: image` only"):
        Toy2D(path="two.png")


# ── vectors through the layers ───────────────────────────────────────────────────────────────────


def test_a_convolution_of_vectors_is_that_of_one_place() -> None:
    vectors = draw(3, 5)
    linear, size = convolution(5, 4, (), kernel=3, dilation=2)
    assert size == ()
    place = torch.nn.functional.conv1d(vectors[:, :, None], linear.weight[:, :, None], linear.bias)[:, :, 0]
    assert_close(linear(vectors), place)
    weight, bias = draw(3, 2, 5, seed=1), draw(3, 2, seed=2)
    expected = [w @ vector + b for w, vector, b in zip(weight, vectors, bias, strict=True)]
    assert_close(chosen_convolution(vectors, weight, bias), torch.stack(expected))
    with pytest.raises(ShapeError, match="vectors have none"):
        convolution(5, 4, (), kernel=3, stride=2)


def test_the_mlp_is_its_layers_written_out() -> None:
    torch.manual_seed(0)
    backbone = MLPBackbone(2, (), 3, widths=[6, 4], condition=Scale)
    features = vectors = draw(5, 2)
    weights = dict(backbone.named_parameters())
    for layer in (0, 1):
        own = f"layers.layers.{layer}.layers"
        linear = features @ weights[f"{own}.0.module.weight"].T + weights[f"{own}.0.module.bias"]
        features = (linear * weights[f"{own}.1.module.scales"][2]).clamp(min=0)
    assert_close(backbone(vectors, 2), features)
    assert (backbone.width, backbone.size) == (4, ())
    with pytest.raises(ShapeError, match="mlp takes vectors"):
        MLPBackbone(2, (8,), 3, condition=Scale)


def test_the_heads_chosen_path_on_vectors_is_the_full_one() -> None:
    head = ConvHead(8, (), 3, 4, 2, layers=[], condition=Film)
    features, codes = draw(5, 8), torch.tensor([3, 0, 1, 1, 2])
    assert head(features, 1).shape == (5, 4, 2)
    assert_close(head.choose(features, 1, codes), head(features, 1)[torch.arange(5), codes])


def test_points_have_no_bernoulli_likelihood_and_a_gaussian_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="these data are points"):
        build_model(load_recipe(RECIPE, ["model.loss=bernoulli"]))
    model = build_model(load_recipe(RECIPE, ["model.loss=gaussian"])).eval()
    items = Toy2D(items=4).load(tmp_path).train.items
    assert model.loss.show(model.decode(model.encode(items))).shape == (4, 2)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("toy2d")
    with pytest.MonkeyPatch.context() as patch:
        assert vqtk_main(patch, "run", RECIPE, *SHORT, "--out", parent, "--device", "cpu") == 0
    (path,) = (parent / "toy2d").iterdir()
    return path


def resumed(path: Path, parent: Path) -> Any:
    """The same run again, stopped halfway and resumed; its trainer."""
    cpu, recipe = torch.device("cpu"), load_recipe(RECIPE, SHORT)
    first = Experiment.of(recipe, data_root=parent, device=cpu, callbacks=[Watching(stop_after=40)])
    directory = RunDirectory.create(parent, recipe)
    directory.write_manifest(first.manifest())
    assert not run_experiment(first, directory)
    again = Experiment.of(recipe, data_root=parent, device=cpu)
    directory.restore(again.trainer)
    assert again.trainer.done == 40
    again.check_same_data(directory.manifest())
    assert run_experiment(again, directory)
    return again.trainer


def test_training_lowers_the_distortion_far_below_that_of_the_initial_model(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    recipe = load_recipe(RECIPE, SHORT)
    items = Toy2D(test=200).load(trained).test
    before = evaluate(build_model(recipe), items, searched=True).distortion[-1]
    after = summary["test"]["final"]
    assert after < 0.02 * before
    distortions = [row["distortion"] for row in summary["stages"]]
    assert distortions == sorted(distortions, reverse=True)


def test_a_run_on_points_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    again = resumed(trained, tmp_path).model.state_dict()
    whole, _ = load_weights(weights_of(trained))
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


def test_a_run_on_points_leaves_scatter_plots_and_a_report(trained: Path) -> None:
    sorts = {path.name.rpartition("_")[0] for path in (trained / "images").glob("*.png")}
    assert sorts == {"samples", "reconstructions", "stages", "proposals"}
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "each joined to its reconstruction (blue)" in page
    assert 'class="pixels"' not in page


def test_eval_tells_the_distance_of_points_and_nothing_of_pixels(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "eval", trained, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "distance" in printed
    assert "ixel" not in printed
    found = json.loads((trained / "eval.json").read_text())
    model, _ = load_weights(weights_of(trained))
    items = Toy2D(test=200).load(trained).test.items
    distance = (model.decode(model.encode(items)) - items).norm(dim=1).mean().item()
    assert found["kind"] == "points"
    assert found["stages"][-1]["distance"] == pytest.approx(distance, rel=1e-4)
    assert (trained / "images" / "rate_distortion.png").is_file()


def test_a_sheet_of_points_shows_every_point_within_its_frame() -> None:
    model = build_model(load_recipe(RECIPE)).eval()
    items = draw(30, 2)
    sheets = [
        pictures.samples(model, count=30, over=items),
        pictures.reconstructions(model, items),
        pictures.stages(model, items),
        pictures.proposals(model, items[0], stage=1)[0],
    ]
    for sheet in sheets:
        pixels = sheet.pixels  # type: ignore[attr-defined]
        assert pixels.shape[0] == 3
        assert pixels.min() < 0.5
        assert (pixels[:, :, :2] == 1).all()
        assert sheet.suffix == ".png"
        assert sheet.alt  # type: ignore[attr-defined]
