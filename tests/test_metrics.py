"""Metrics: their values by other means, and one registry for evaluations, studies and comparisons."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.refusing import Refusing
from tests.running import TINY, vqtk_main, without_data
from tests.test_runs import NEAR
from vqtk.compare.comparison import ComparisonRequest, compare
from vqtk.errors import DataError, VqtkError
from vqtk.metrics.lpips import LPIPS
from vqtk.metrics.ssim import SSIM
from vqtk.nn.types import DataSpec
from vqtk.registry import metrics
from vqtk.study.study import load_study


def test_ssim_is_that_of_scikit_image_away_from_the_borders() -> None:
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    one, other = (torch.rand(2, 48, 48, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    near = 0.8 * one + 0.2 * other
    expected = structural_similarity(
        one.numpy(), near.numpy(), channel_axis=0, gaussian_weights=True, use_sample_covariance=False, data_range=1.0
    )
    metric = SSIM(DataSpec("image", (2, 48, 48)))
    assert metric.measure(near[None], one[None]).item() == pytest.approx(expected, abs=0.005)
    assert metric.measure(one[None], one[None]).item() == pytest.approx(1)


def test_code_usage_is_that_of_its_definition() -> None:
    usage, data = torch.tensor([[4, 4, 0, 0], [2, 2, 2, 2]]), DataSpec("points", (2,))
    names = ("entropy_bits", "perplexity", "used")
    found = {name: metrics.get(name).component(data).measure(usage) for name in names}
    assert found == {"entropy_bits": pytest.approx(1.5), "perplexity": pytest.approx(3), "used": 4}


def refuse(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_what_a_metric_needs_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"the window of ssim reaches 5 pixels .* 4×4. Set a smaller `sigma`"):
        SSIM(DataSpec("image", (1, 4, 4)))
    with pytest.raises(DataError, match="metric of image data, and these are text"):
        SSIM(DataSpec("text", (4,), classes=3))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(DataError, match="lpips needs the weights of AlexNet, which could not be downloaded"):
        LPIPS(DataSpec("image", (3, 64, 64)))
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(VqtkError, match="ssim needs torchmetrics, which is not installed: pip install"):
        SSIM(DataSpec("image", (1, 28, 28)))


def test_every_metric_of_the_first_version_still_has_its_name_and_direction() -> None:
    lower = "final area choice all mse_pixels distance squared_error samples_frechet samples_kernel"
    higher = "entropy_pooled_nats used psnr_db token_accuracy iou recall_at_1 recall_at_10 recall_at_100"
    for better, names in (("lower", lower), ("higher", higher)):
        assert {metrics.get(name).component.better for name in names.split()} == {better}


def test_a_metric_measured_by_eval_compares_runs_that_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY.replace("updates: 4", "updates: 1"))
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "train.final_items=null", "--device", "cpu") == 0
    runs = list(Path("runs/tiny").iterdir())
    with pytest.raises(VqtkError, match=r"on its whole test split:\n  vqtk eval .* --metric ssim\n") as refused:
        compare(runs, ComparisonRequest(metric="ssim"))
    assert " of, " not in str(refused.value), "the number of examples is no metric"
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "eval", runs[0], "--metric", "ssim", "--metric", "perplexity") == 0
    assert "(1 for equal images; higher is better)." in capsys.readouterr().out
    found = json.loads((runs[0] / "eval.json").read_text())
    assert found["stages"][-1]["ssim"] == found["test"]["ssim"] < 1
    compared = compare(runs, ComparisonRequest(metric="ssim"))
    assert (compared.better, compared.variants[0].result.mean) == ("higher", found["test"]["ssim"])
    for change, why in (
        ({"is_subset": True}, "has it on a subset of the test examples"),
        ({"search": "beam:2"}, "has it for codes found by beam:2"),
        ({"updates": 9}, "has it of the weights of another update"),
    ):
        (runs[0] / "eval.json").write_text(json.dumps({**found, **change}))
        with pytest.raises(VqtkError, match=f"{why}, so it is not compared. Measure"):
            compare(runs, ComparisonRequest(metric="ssim"))
    (runs[0] / "eval.json").write_text(json.dumps({**found, "search": "greedy"}))
    assert compare(runs, ComparisonRequest(metric="ssim")).variants[0].result.mean == found["test"]["ssim"]
    with pytest.raises(VqtkError, match="It is a metric of voxels data, and these are image"):
        compare(runs, ComparisonRequest(metric="iou"))
    refusing, run = Refusing(monkeypatch, capsys), str(runs[0])
    refusing.tells("eval", run, "--metric", "sim", told=["no metric is called 'sim'. Did you mean 'ssim'?"])
    refusing.tells("eval", run, "--metric", "iou", told=["IoU is a metric of voxels data"])
    told = ["samples_kernel cannot be measured at every evaluation"]
    refusing.tells("run", "tiny.yaml", "train.metrics=[samples_kernel]", "--device", "cpu", told=told)


def test_a_study_may_compare_by_a_metric_of_its_recipes_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("near.py").write_text(NEAR)
    Path("tiny.yaml").write_text(f"plugins: [near.py]\n{TINY}")
    Path("study.yaml").write_text(
        "name: s\nbase: tiny.yaml\naxes: {c: {a: [], b: ['model.options=2']}}\nseeds: [0]\nmetrics: [near, ssim]\n"
    )
    found = [(one.name, one.better) for one in load_study(Path("study.yaml")).metrics]
    assert found == [("near", "higher"), ("ssim", "higher")]
