"""The figures of `vqtk eval`, against closed forms, textbook formulas and loops."""

from __future__ import annotations

import json
import re
from math import log, log2
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vqtk
from tests.running import TINY, vqtk_main, without_data
from vqtk.cli.eval_tables import _overfits
from vqtk.compare.model_table import ModelsRequest, Subject, measure_models, rows_as_markdown
from vqtk.datasets._base import Splits
from vqtk.datasets._split import Held
from vqtk.errors import DataError, VqtkError
from vqtk.evaluate import quality as features
from vqtk.evaluate.evaluation import Evaluation, evaluate
from vqtk.evaluate.probe import OneHotLinear, labels_of, probe
from vqtk.evaluate.quality import quality
from vqtk.losses.bernoulli import Bernoulli
from vqtk.losses.categorical import Categorical
from vqtk.losses.mse import MSE
from vqtk.metrics import measure_stages
from vqtk.metrics.samples import frechet_distance, kernel_distance
from vqtk.models._base import Model
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_search
from vqtk.report.plots import run_rate_distortion
from vqtk.sampling.prior import fit_markov

DIGITS = DataSpec("image", (1, 28, 28), mean=0.1307, std=0.3081)


def digits(items: int, *, labels: bool = True) -> Held:
    drawn = torch.randint(256, (items, 1, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Held(drawn, torch.arange(items) % 10 if labels else None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("evaluate") / "tiny.yaml"
    path.write_text(TINY)
    built = vqtk.build(path)
    for value in built.parameters():
        nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(value.numel()))
    return built.eval()


class Whole(Model):
    """A model of whole codes: the brightness of an item, in four steps, and an unused second stage."""

    def __init__(self) -> None:
        super().__init__(DIGITS, stages=2, options=4)
        self.loss = MSE(DIGITS)
        self.level = nn.Parameter(torch.linspace(-0.4, 2.8, 4))

    def encode(self, target: Tensor) -> Tensor:
        nearest = (target.mean((1, 2, 3))[:, None] - self.level).abs().argmin(1)
        return torch.stack([nearest, torch.zeros_like(nearest)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.level[codes[:, 0]][:, None, None, None].expand(-1, 1, 28, 28)

    def trial(self, target: Tensor) -> Tensor:
        return self.decode(self.encode(target)).mean()


# ── distortion ───────────────────────────────────────────────────────────────────────────────────


def test_encoding_and_decoding_finds_what_the_walk_finds(model: Any) -> None:
    split = digits(23)
    walked, measured = evaluate(model, split), evaluate(model, split, batch=7, searched=True)
    assert measured.distortion == pytest.approx(walked.distortion, rel=1e-5)
    assert torch.equal(measured.usage, walked.usage)
    assert torch.equal(measured.codes, model.encode(DIGITS.normalise(split.items)))
    assert list(walked.row()) == ["choice", "final", "all", "entropy_pooled_nats", "used"]
    assert walked.reached == pytest.approx(measured.reached, rel=1e-5)
    assert walked.reached["mse_pixels"] == pytest.approx(measured.stages()[-1]["mse_pixels"], rel=1e-5)
    assert walked.reached["psnr_db"] == pytest.approx(measured.stages()[-1]["psnr_db"], rel=1e-5)


def test_pixels_are_compared_from_0_to_1_after_every_stage(model: Any) -> None:
    split = digits(5)
    found = evaluate(model, split, searched=True).stages()
    codes = model.encode(DIGITS.normalise(split.items))
    for stage, row in enumerate(found):
        with torch.no_grad():
            shown = (model.decode(codes[:, : stage + 1]).double() * 0.3081 + 0.1307).clip(0, 1)
        error = ((shown - split.items.double() / 255) ** 2).mean().item()
        assert row["mse_pixels"] == pytest.approx(error, rel=1e-5)
        assert row["psnr_db"] == pytest.approx(-10 * torch.tensor(error).log10().item(), rel=1e-5)
    assert "mse" not in found[0]


def showing(data: DataSpec, loss: Any, after: Tensor) -> Any:
    """A model whose codes always decode to the same reconstructions, one a stage."""
    return SimpleNamespace(stepwise=True, data=data, loss=loss, decode_stages=lambda codes: after)


def test_tokens_are_right_or_wrong() -> None:
    data = DataSpec("text", (4,), classes=3)
    target = torch.tensor([[0, 1, 2, 0]])
    said = torch.tensor([[[0, 1, 0, 1], [0, 1, 2, 0]]])
    logits = 100.0 * F.one_hot(said, 3)
    found = measure_stages(showing(data, Categorical(data), logits), torch.zeros(1, 2).long(), target)
    assert found["token_accuracy"].tolist() == [[0.5, 1.0]]
    assert found["distortion"][0].tolist() == pytest.approx([50, 0])


def test_voxels_overlap_and_two_empty_grids_are_the_same() -> None:
    data = DataSpec("voxels", (1, 2, 2, 2))
    grids = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0] * 8]).float().view(2, 1, 2, 2, 2)
    said = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 0], [0] * 8]).float().view(2, 1, 2, 2, 2)
    logits = 10 * (2 * said - 1)[:, None]
    found = measure_stages(showing(data, Bernoulli(data), logits), torch.zeros(2, 1).long(), grids)
    assert found["iou"].tolist() == [[0.5], [1.0]]


def test_even_codes_and_uniform_tokens_have_the_bound_and_the_entropy_of_their_closed_form() -> None:
    usage = torch.full((3, 8), 4)
    even = Evaluation(32, [log(50)] * 3, None, usage, 8, normalised=True, data=DataSpec("text", (128,), classes=5))
    last = even.stages()[-1]
    assert last["bound_nats"] == pytest.approx(128 * log(50) + 3 * log(8))
    assert last["bound_bits_per_char"] == pytest.approx(log2(50) + 3 * 3 / 128)
    assert (last["entropy_nats"], last["entropy_bits"]) == pytest.approx((log(8), 3))
    assert (last["perplexity"], last["used"]) == (pytest.approx(8), 8)


def test_a_model_of_whole_codes_is_measured_after_its_last_stage() -> None:
    split, whole = digits(9), Whole()
    target = DIGITS.normalise(split.items)
    error = (whole.decode(whole.encode(target)) - target).square().mean().item()
    for figures in (evaluate(whole, split), evaluate(whole, split, batch=4, searched=True)):
        assert figures.distortion == [None, pytest.approx(error, rel=1e-5)]
        assert list(figures.row()) == ["final", "entropy_pooled_nats", "used"]
        assert [row["used"] for row in figures.stages()] == [len(whole.encode(target)[:, 0].unique()), 1]
    first, last = evaluate(whole, split, searched=True).stages()
    assert first["psnr_db"] is None
    assert last["psnr_db"] > 0


@pytest.mark.parametrize(("kind", "key"), [("image", "mse_pixels"), ("text", "distortion"), ("voxels", "iou")])
def test_the_plot_has_a_point_for_every_reconstruction(kind: Any, key: str) -> None:
    rows = [{"bits": 6.0, key: None}, {"bits": 12.0, key: 0.5}, {"bits": 18.0, key: 0.25}]
    (axes,) = run_rate_distortion(rows, kind).axes
    assert axes.lines[0].get_xydata().tolist() == [[12, 0.5], [18, 0.25]]
    assert axes.get_xlabel() == "rate (bits per example)"


# ── probe ────────────────────────────────────────────────────────────────────────────────────────


def test_rows_summed_train_as_a_linear_layer_on_one_hot_codes_does() -> None:
    drawn = torch.Generator().manual_seed(0)
    codes, labels = torch.randint(5, (40, 3), generator=drawn), torch.randint(4, (40,), generator=drawn)
    torch.manual_seed(0)
    ours = OneHotLinear(3, 5, 4).double()
    plain = nn.Linear(15, 4).double()
    plain.load_state_dict({"weight": ours.weight.detach().T.clone(), "bias": ours.bias.detach().clone()})
    one_hot = F.one_hot(codes, 5).double().flatten(1) * 5**0.5
    for layer, entering in ((ours, codes), (plain, one_hot)):
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(layer(entering), labels).backward()
            optimizer.step()
    torch.testing.assert_close(ours(codes), plain(one_hot))
    torch.testing.assert_close(ours.weight.T, plain.weight)


def test_a_probe_tells_after_which_stage_the_class_is_in_the_code() -> None:
    codes = torch.randint(4, (4000, 2), generator=torch.Generator().manual_seed(0))
    either = codes.sum(1) % 2
    found = probe((codes[:3000], either[:3000]), (codes[3000:], either[3000:]), options=4, seed=0)
    assert max(found.linear + found.mlp[:1]) < 0.65
    assert found.mlp[1] > 0.95
    assert (found.train_items, found.test_items) == (3000, 1000)
    again = probe((codes[:3000], either[:3000]), (codes[3000:], either[3000:]), options=4, seed=0)
    assert again == found


def test_a_probe_that_learns_its_few_items_by_heart_is_said_to_overfit() -> None:
    """The class is the first code of ten; to a classifier of 1,000 items the other nine are noise."""
    codes = torch.randint(0, 64, (2000, 10), generator=torch.Generator().manual_seed(0))
    labels = codes[:, 0] % 2
    found = probe((codes[:1000], labels[:1000]), (codes[1000:], labels[1000:]), options=64, seed=0)
    assert found.linear[-1] < max(found.linear) - 0.05
    assert found.linear_train[-1] > 0.95
    assert "linear" in found.overfits()
    assert found.plain()["overfits"] == found.overfits()
    told = _overfits("linear", found.plain())
    assert f"falls from {max(found.linear):.4f}" in told
    assert f"its training accuracy is {found.linear_train[-1]:.4f}" in told
    many = probe((codes[:, :1], labels), (codes[:, :1], labels), options=64, seed=0)
    assert many.overfits() == []


def test_a_probe_of_data_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="test examples have no labels"):
        labels_of(digits(3, labels=False), torch.arange(3), "test")


# ── quality ──────────────────────────────────────────────────────────────────────────────────────


def with_moments(mean: Tensor, covariance: Tensor, *, seed: int) -> Tensor:
    """Points whose sample mean and covariance are exactly those."""
    drawn = torch.randn(200, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn = drawn - drawn.mean(0)
    white = drawn @ torch.linalg.inv(torch.linalg.cholesky(drawn.T @ drawn / 199)).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def spread(seed: int, width: int = 6) -> Tensor:
    drawn = torch.randn(width, 2 * width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn @ drawn.T / width


def test_the_frechet_distance_of_commuting_gaussians_is_their_closed_form() -> None:
    one = with_moments(torch.tensor([0.0, 0, 0]).double(), torch.diag(torch.tensor([1.0, 4, 9]).double()), seed=0)
    other = with_moments(torch.tensor([1.0, -2, 0]).double(), torch.diag(torch.tensor([4, 4, 0.25]).double()), seed=1)
    assert frechet_distance(one, other) == pytest.approx((1 + 4) + (1 + 0 + 2.5**2), rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_agrees_with_the_matrix_root_of_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = spread(0), spread(1)
    one = with_moments(torch.zeros(6).double(), first, seed=2)
    other = with_moments(torch.ones(6).double(), second, seed=3)
    root = linalg.sqrtm((first @ second).numpy()).real
    expected = 6 + (first + second).trace().item() - 2 * root.trace()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)


def test_the_kernel_distance_is_the_sum_over_pairs() -> None:
    drawn = torch.Generator().manual_seed(0)
    one, other = torch.randn(5, 3, generator=drawn).double(), 1 + torch.randn(4, 3, generator=drawn).double()

    def mean(xs: Tensor, ys: Tensor) -> float:
        pairs = [(x, y) for i, x in enumerate(xs) for j, y in enumerate(ys) if xs is not ys or i != j]
        return sum((float(x @ y) / 3 + 1) ** 3 for x, y in pairs) / len(pairs)

    assert kernel_distance(one, other) == pytest.approx(mean(one, one) + mean(other, other) - 2 * mean(one, other))


@pytest.fixture
def _without_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.evaluate.quality.inception", lambda device: (None, "no Inception here"))
    monkeypatch.setattr(features, "UPDATES", 5)


@pytest.mark.usefixtures("_without_inception")
def test_a_stand_in_for_fid_never_goes_by_its_name(model: Any) -> None:
    splits = Splits(digits(40), digits(20), source="noise")
    found = quality(model, splits, items=torch.arange(20), name="noise", seed=0).plain()
    assert not {"fid", "kid"} & {*found, *found["reference"]}
    assert found["frechet_classifier"] > found["reference"]["frechet_classifier"] > 0
    assert found["features"] == "features of a classifier trained on noise (NOT the standard FID)"
    assert (found["samples"], found["train_items"], found["test_items"]) == (20, 20, 20)
    assert found["note"] == "no Inception here"


@pytest.mark.usefixtures("_without_inception")
def test_quality_without_labels_and_without_inception_is_refused(model: Any) -> None:
    splits = Splits(digits(4, labels=False), digits(4), source="noise")
    with pytest.raises(DataError, match="or labels of noise"):
        quality(model, splits, items=torch.arange(4), name="noise", seed=0)


# ── one table of several models ──────────────────────────────────────────────────────────────────


def subject(label: str, model: Any, splits: Splits) -> Subject:
    training = {"updates": 2000, "examples": 64_000, "seconds": 90.0}
    recipe: Any = SimpleNamespace(loss="mse", data=SimpleNamespace(entry=SimpleNamespace(name="noise")))
    return Subject(label, f"weights of {label}", model, recipe, splits, training)


@pytest.mark.usefixtures("_without_inception")
def test_a_table_holds_what_each_model_reaches_greedily_by_a_search_and_in_samples(model: Any) -> None:
    splits = Splits(digits(40), digits(20), source="noise")
    makers = [lambda: subject("ours", model, splits), lambda: subject("whole", Whole(), splits)]
    asked = ModelsRequest(search="beam:3")
    kept: list[list[str]] = []
    rows = measure_models(makers, asked, keep=lambda rows, others: kept.append([row["label"] for row in rows]))
    assert kept == [["ours"], ["ours", "whole"]]
    ours, whole = rows
    assert ours["greedy"]["mse"] == pytest.approx(evaluate(model, splits.test).distortion[-1], rel=1e-5)
    model.search = build_search("beam:3")
    assert ours["searched"]["mse"] == pytest.approx(evaluate(model, splits.test, searched=True).distortion[-1])
    model.search = build_search("greedy")
    assert "searched" not in whole
    assert set(whole["samples"]["uniform"]) == {"samples_frechet", "samples_kernel"}
    known, new = (model.encode(DIGITS.normalise(split.items)) for split in (splits.train, splits.test))
    nats = fit_markov(known, model.options).nats(new).mean().item()
    assert ours["samples"]["prior"]["bits"] == pytest.approx(nats / log(2))
    text = rows_as_markdown(rows)
    assert "| ours | 6 |" in text
    assert "| 2,000 | 64,000 | 90 s |" in text
    assert re.search(r"\| whole .*\| – \| – \| ", text), "no search for a model of whole codes"


def test_a_model_measured_before_is_measured_again_only_if_something_differs(model: Any) -> None:
    splits = Splits(digits(8), digits(12), source="noise")
    makers = [lambda: subject("ours", model, splits)]
    few, more = ModelsRequest(items=4, samples=False), ModelsRequest(items=6, samples=False)
    kept = measure_models(makers, few)
    kept[0]["greedy"]["mse"] = "as it was kept"
    assert measure_models(makers, few, kept=kept) == kept
    left: list[Any] = []
    assert (
        measure_models(makers, more, kept=kept, keep=lambda rows, others: left.extend(others))[0]["greedy"]["mse"] > 0
    )
    assert left == kept, "what was measured in another way stays in the file"


def test_one_table_has_one_set_of_data_and_a_label_for_each_model(model: Any) -> None:
    splits, others = (Splits(digits(items), digits(4), source="noise") for items in (8, 9))
    asked = ModelsRequest(samples=False)
    with pytest.raises(VqtkError, match="two models are called ours"):
        measure_models([lambda: subject("ours", model, splits)] * 2, asked)
    with pytest.raises(DataError, match="theirs has other data than ours"):
        measure_models([lambda: subject("ours", model, splits), lambda: subject("theirs", model, others)], asked)


# ── the command ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("_without_inception")
def test_results_are_kept_in_a_file_and_taken_from_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    command = [
        "results",
        f"tiny={run}",
        "--items",
        "12",
        "--prior-items",
        "9",
        "-o",
        tmp_path / "table.md",
        "--device",
        "cpu",
    ]
    assert vqtk_main(monkeypatch, *command) == 0
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (row["label"], row["items"], row["samples"]["count"]) == ("tiny", 12, 12)
    assert row["training"]["seconds"] > 0
    assert "| tiny | 6 |" in (tmp_path / "table.md").read_text()
    monkeypatch.setattr("vqtk.compare.model_table._row", None)  # It would fail if it were called.
    assert vqtk_main(monkeypatch, *command) == 0
    (tmp_path / "table.json").write_text('{"rows": [{"label": 3}]}')
    capsys.readouterr()
    assert vqtk_main(monkeypatch, *command) == 2
    assert "table.json: the file of results is damaged" in capsys.readouterr().err
    assert vqtk_main(monkeypatch, "results", run, "-o", tmp_path / "table.csv") == 2
    assert "expected a name that ends in .md" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        assert vqtk_main(patch, "run", folder / "tiny.yaml", "--out", folder / "runs", "--device", "cpu") == 0
    (made,) = (folder / "runs" / "tiny").iterdir()
    return made


@pytest.mark.usefixtures("_without_inception")
def test_eval_writes_into_a_run_what_it_prints(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    asked = ["--items", "30", "--batch", "8", "--probe", "--probe-items", "50", "--quality", "--device", "cpu"]
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "eval", run, *asked) == 0
    told = capsys.readouterr().out
    found = json.loads((run / "eval.json").read_text())
    assert (found["items"], found["test_items"], found["is_subset"]) == (30, 1000, True)
    assert f"{found['stages'][-1]['distortion']:.5f}" in told
    assert found["rates"]["batches"] == 3
    assert len(found["probe"]["mlp"]) == len(found["probe"]["linear"]) == 3
    assert "NOT the standard FID" in told
    assert "not a bound on a likelihood" in told
    assert (run / "images" / "rate_distortion.png").stat().st_size > 1000
    assert vqtk_main(monkeypatch, "eval", run, "--items", "30", "--format", "svg", "--device", "cpu") == 0
    drawn = (run / "images" / "rate_distortion.svg").read_text()
    assert "bits" in drawn
    assert 'xlink:href="#' in drawn
    assert "<a " not in drawn


def test_eval_of_a_weights_file_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    (weights,) = (run / "checkpoints").glob("*.safetensors")
    beside = {*weights.parent.iterdir()}
    assert vqtk_main(monkeypatch, "eval", weights, "--items", "4", "--json") == 0
    assert {*weights.parent.iterdir()} == beside
    assert not any(tmp_path.iterdir())
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "eval", weights, "--format", "pdf") == 2
    assert "--format pdf is that of the plot in a run directory" in " ".join(capsys.readouterr().err.split())


def test_a_limit_for_a_probe_that_is_not_asked_for_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "eval", run, "--probe-items", "5") == 2
    assert "Give both." in capsys.readouterr().err
