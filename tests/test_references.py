"""K-means residual quantisation and the Gaussian's rate–distortion function, against closed forms and SciPy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contracts import draw
from tests.running import TINY, vqtk_main, without_data
from vqtk.datasets._base import Splits
from vqtk.datasets._split import Held
from vqtk.errors import DataError
from vqtk.evaluate import references as module
from vqtk.evaluate.references import are_worth_it, gaussian_distortion, kmeans, nearest_centroids, references
from vqtk.nn.types import DataSpec
from vqtk.recipe.recipe import load_recipe
from vqtk.report.plots import run_rate_distortion

# ── the Gaussian ─────────────────────────────────────────────────────────────────────────────────


def test_equal_variances_share_the_bits() -> None:
    assert gaussian_distortion(torch.full((5,), 3.0), 10.0) == pytest.approx(3 * 2 ** (-2 * 10 / 5))


def test_a_value_below_the_water_gets_no_bits() -> None:
    variances = torch.tensor([16.0, 1.0, 4.0])
    # One bit: 16 falls to 4, and no other is above that. Three: level 2 of 16 and 4 costs 1.5 + 0.5 = 2; level 1, 3.
    assert gaussian_distortion(variances, 1.0) == pytest.approx((4 + 1 + 4) / 3)
    assert gaussian_distortion(variances, 2.0) == pytest.approx((2 + 1 + 2) / 3)
    assert gaussian_distortion(variances, 3.0) == pytest.approx(1)
    assert gaussian_distortion(variances, 0.0) == pytest.approx(7)


def test_the_level_is_the_one_that_bisection_finds() -> None:
    variances = draw(40).exp()
    variances[:5] = 0
    for bits in (0.5, 7.0, 60.0):
        low, high = 1e-12, float(variances.max())
        for _ in range(200):
            level = (low * high) ** 0.5
            spent = 0.5 * (variances / level).clamp(min=1).log2().sum().item()
            low, high = (level, high) if spent > bits else (low, level)
        expected = variances.clamp(max=level).mean().item()
        assert gaussian_distortion(variances, bits) == pytest.approx(expected, rel=1e-9)


# ── K-means ──────────────────────────────────────────────────────────────────────────────────────


def test_kmeans_by_mini_batches_comes_as_near_as_lloyds_over_all_vectors() -> None:
    from scipy.cluster.vq import kmeans2  # Here, because importing it takes long, in every process that collects tests.

    vectors = torch.cat([draw(500, 3), draw(500, 3) + 4, draw(500, 3) * 0.1 - 4])
    start = vectors[torch.randperm(1500, generator=torch.Generator().manual_seed(4))[:6]]
    expected, _ = kmeans2(vectors.numpy(), start.numpy(), iter=25, minit="matrix")
    error, least = (
        (vectors - centres[nearest_centroids(vectors, centres)]).square().mean()
        for centres in (kmeans(vectors, 6, seed=4), torch.from_numpy(expected))
    )
    assert error < 1.1 * least
    assert torch.equal(kmeans(vectors, 6, seed=4), kmeans(vectors, 6, seed=4))


def test_of_fewer_vectors_than_options_each_is_a_centre() -> None:
    vectors = draw(5, 3)
    torch.testing.assert_close(kmeans(vectors, 8, seed=0).sort(0).values, vectors.sort(0).values, atol=1e-3, rtol=0)


def planted(items: int, seed: int) -> Tensor:
    """Images that are 100 ± 60, in their upper half ± 20 besides, all four equally often, and noise of one level."""
    order = torch.arange(items)[:, None, None, None]
    images = (100 + 60 * (order % 2 * 2 - 1)).repeat(1, 1, 4, 4)
    images[:, :, :2] += 20 * (order // 2 % 2 * 2 - 1)
    noise = torch.randint(-1, 2, images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + noise).to(torch.uint8)


@pytest.fixture
def mixture() -> Splits:
    return Splits(Held(planted(300, 1)), Held(planted(200, 2)), "planted")


def small(stages: int = 2, kind: Any = "image") -> Any:
    data = DataSpec(kind, (1, 4, 4), mean=0.4, std=0.2)
    return SimpleNamespace(data=data, stages=stages, options=2, device=torch.device("cpu"), dtype=torch.float32)


def test_a_planted_mixture_is_quantised_down_to_its_noise(mixture: Splits) -> None:
    found = references(small(), mixture, seed=0)
    first, second = (point.mse_pixels * 255**2 for point in found.kmeans)
    assert first == pytest.approx(20**2 / 2 + 2 / 3, rel=0.03)
    assert second == pytest.approx(2 / 3, rel=0.05)
    assert [point.bits for point in found.kmeans] == [1, 2]
    assert found.kmeans[1].mse == pytest.approx(found.kmeans[1].mse_pixels / 0.2**2, rel=1e-4)


def test_the_covariance_is_that_of_all_training_items(mixture: Splits) -> None:
    items = mixture.train[torch.arange(300)].flatten(1).double() / 255 / 0.2
    variances = torch.linalg.eigvalsh(torch.cov(items.T, correction=0))
    for point in references(small(3), mixture, seed=0).gaussian:
        assert point.mse == pytest.approx(gaussian_distortion(variances, point.bits), rel=1e-3)
        assert point.mse_pixels == pytest.approx(point.mse * 0.2**2)


def test_they_are_computed_once_for_the_same_data_rates_and_seed(
    mixture: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "references.json"
    first = references(small(), mixture, seed=0, keep=keep)

    def computes(*_: Any, **__: Any) -> Any:
        raise RuntimeError("computes")

    monkeypatch.setattr(module, "_kmeans_points", computes)
    assert references(small(), mixture, seed=0, keep=keep) == first
    keep.write_text(keep.read_text()[:-9])
    for model, seed in ((small(), 0), (small(3), 0), (small(), 1)):
        with pytest.raises(RuntimeError, match="computes"):
            references(model, mixture, seed=seed, keep=keep)


def test_kmeans_is_fitted_on_all_training_items(mixture: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "kmeans", lambda vectors, *_, **__: seen.append(len(vectors)) or vectors[:2])
    assert references(small(), mixture, seed=0).facts["items"] == 300
    monkeypatch.setattr(module, "MOST_VALUES", 100 * 16)
    assert references(small(), mixture, seed=0).facts["items"] == 100
    assert seen == [300, 300, 100, 100]


def test_whether_they_are_worth_it_is_counted_and_the_same_on_any_machine(mixture: Splits, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    short, long = (load_recipe(tmp_path / "tiny.yaml", [f"train.updates={n}"]) for n in (4, 10**6))
    assert not are_worth_it([short], small(), mixture)
    assert are_worth_it([long], small(), mixture)
    assert not are_worth_it([long], small(kind="text"), mixture)


def test_text_is_refused(mixture: Splits) -> None:
    with pytest.raises(DataError, match="the data are text"):
        references(small(kind="text"), mixture, seed=0)


def test_the_plot_says_which_line_is_what(mixture: Splits) -> None:
    found = references(small(), mixture, seed=0).plain()
    rows = [{"bits": 1.0, "mse_pixels": 0.02}, {"bits": 2.0, "mse_pixels": 0.01}]
    plot = run_rate_distortion(rows, "image", references=found)
    (axes,), (legend,) = plot.axes, plot.legends
    texts = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert texts == ["the model", *(found[name]["label"] for name in ("kmeans", "gaussian"))]
    assert "neither floor nor ceiling" in texts[2]
    assert list(axes.lines[1].get_ydata()) == [point["mse_pixels"] for point in found["kmeans"]["stages"]]
    assert not run_rate_distortion(rows, "image").legends


def test_eval_keeps_references_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "STEPS", 2)
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert vqtk_main(monkeypatch, "run", tmp_path / "tiny.yaml", "train.updates=1", "--out", tmp_path / "runs") == 0
    (run,) = (path.parent for path in tmp_path.glob("runs/**/recipe.yaml"))
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "eval", run, "--items", "8", "--references", "--device", "cpu") == 0
    told = capsys.readouterr().out
    found = json.loads((run / "eval.json").read_text())["references"]
    assert (run / "references.json").is_file()
    assert [point["bits"] for point in found["kmeans"]["stages"]] == [2, 4, 6]
    assert f"{found['kmeans']['stages'][2]['mse_pixels']:.5f}" in told
    assert "neither floor nor ceiling for such data." in told
