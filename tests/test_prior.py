"""The Markov prior over codes, and `vqtk sample --prior`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.running import TINY, vqtk_main, without_data
from vqtk.datasets.mnist import MNIST
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.sampling import prior as module
from vqtk.sampling.prior import Markov, fit_markov, fitted_prior
from vqtk.training.loop import Trainer

K = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(n: int, stages: int, *, follows: float, seed: int = 0) -> Tensor:
    """Codes that with this probability are the last one plus the stage, and otherwise uniform."""
    g = generator(seed)
    codes = [torch.randint(K, (n,), generator=g)]
    for stage in range(1, stages):
        free = torch.randint(K, (n,), generator=g)
        codes.append(torch.where(torch.rand(n, generator=g) < follows, (codes[-1] + stage) % K, free))
    return torch.stack(codes, 1)


def uniform(stages: int) -> float:
    return stages * math.log(K)


@pytest.mark.parametrize("n", [5, 3000])
def test_a_fitted_prior_is_a_distribution_over_all_codes(n: int) -> None:
    prior = fit_markov(chain(n, 3, follows=0.8), K)
    every = torch.cartesian_prod(*[torch.arange(K)] * 3)
    assert prior.nats(every).neg().exp().sum().item() == pytest.approx(1)
    assert prior.nats(every[:, :2].unique(dim=0)).neg().exp().sum().item() == pytest.approx(1)


def test_codes_that_follow_each_other_cost_their_entropy() -> None:
    prior = fit_markov(chain(4000, 4, follows=0.6), K)
    most, other = 0.6 + 0.4 / K, 0.4 / K
    entropy = math.log(K) - 3 * (most * math.log(most) + 3 * other * math.log(other))
    assert prior.nats(chain(4000, 4, follows=0.6, seed=1)).mean().item() == pytest.approx(entropy, rel=0.02)
    assert prior.later[1].exp()[0, 2].item() == pytest.approx(most, abs=0.03)


def test_codes_that_are_uniform_cost_hardly_more_than_uniform_ones_however_few_there_are() -> None:
    prior = fit_markov(chain(40, 4, follows=0), K)
    assert prior.nats(chain(4000, 4, follows=0, seed=1)).mean().item() == pytest.approx(uniform(4), rel=0.03)


def test_samples_have_the_frequencies_of_the_prior_and_a_seed_decides_them() -> None:
    prior = fit_markov(chain(500, 3, follows=0.7), K)
    codes = prior.sample(20_000, generator())
    assert torch.equal(codes, prior.sample(20_000, generator()))
    assert codes.shape == (20_000, 3)
    for stage in (0, 1):
        pairs = torch.bincount(codes[:, stage] * K + codes[:, stage + 1], minlength=K * K).reshape(K, K)
        torch.testing.assert_close(
            pairs / pairs.sum(1, keepdim=True), prior.later[stage].exp().float(), rtol=0, atol=0.03
        )


def test_a_model_of_one_stage_has_a_prior_too() -> None:
    prior = fit_markov(torch.tensor([[0], [0], [2]]), K)
    likely = prior.first.exp().tolist()
    assert sum(likely) == pytest.approx(1)
    assert likely[0] > likely[2] > likely[1] == likely[3] > 0
    assert prior.nats(torch.tensor([[1]])).item() == pytest.approx(-math.log(likely[1]))
    assert prior.sample(5, generator()).shape == (5, 1)


# ── kept and used ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory with the weights of a tiny model, untrained."""
    without_data(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "TEST_ITEMS", 10)
    (tmp_path / "tiny.yaml").write_text(TINY)
    recipe = load_recipe(tmp_path / "tiny.yaml")
    directory = RunDirectory.create(tmp_path / "runs", recipe)
    directory.write_manifest({"data": MNIST().load(tmp_path).fingerprint()})
    directory.save(Trainer(recipe, recipe_model(recipe)))
    return directory.path


def recipe_model(recipe: Any) -> Any:
    from vqtk.recipe.build import build_model

    model = build_model(recipe)
    with torch.no_grad():
        model.bias.normal_(generator=generator())
    return model


def sampled(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    arguments = ["-n", "9", "--prior", "markov", "--prior-items", "30", "--device", "cpu", "--json", *more]
    assert vqtk_main(monkeypatch, "sample", run, *arguments) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_a_prior_is_fitted_once_and_kept_with_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, said = sampled(run, monkeypatch, capsys)
    assert "Encoding 30 training and 10 test examples" in said
    assert (run / "prior.safetensors").is_file()
    assert Path(first["path"]).name == "samples_markov.png"
    assert first["prior"]["items"] == 30
    assert first["prior"]["uniform_nats"] == pytest.approx(uniform(3))
    monkeypatch.setattr(module, "encode_all", None)
    again, said = sampled(run, monkeypatch, capsys)
    assert again == first
    assert "Encoding" not in said
    part, _ = sampled(run, monkeypatch, capsys, "--stages", "2")
    assert part["codes"] == [code[:2] for code in first["codes"]]


def test_what_is_told_is_what_the_test_codes_cost(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import vqtk
    from vqtk.datasets import fixed_subset

    found, _ = sampled(run, monkeypatch, capsys)
    model, splits = vqtk.load(run), MNIST().load(run)
    train, test = splits.train[fixed_subset(splits.train, 30, 0)], splits.test[fixed_subset(splits.test, 10, 0)]
    codes, scored = (model.encode(model.data.normalise(items)) for items in (train, test))
    assert found["prior"]["nats"] == pytest.approx(fit_markov(codes, K).nats(scored).mean().item())


def test_a_kept_prior_of_other_weights_other_items_or_damaged_is_fitted_again(tmp_path: Path, run: Path) -> None:
    import vqtk

    model, splits, fits = vqtk.load(run), MNIST().load(run), list[int]()
    weights, path = tmp_path / "weights", tmp_path / "kept" / "prior.safetensors"

    def fit(items: int) -> Markov:
        opened = lambda: fits.append(items) or splits  # noqa: E731
        return fitted_prior(model, weights=weights, path=path, splits=opened, items=items).prior

    weights.write_bytes(b"one")
    assert torch.equal(fit(20).later, fit(20).later)
    assert fits == [20]
    weights.write_bytes(b"two")
    fit(20)
    fit(30)
    assert fits == [20, 20, 30]
    path.write_bytes(path.read_bytes()[:200])
    fit(30)
    fit(30)
    assert fits == [20, 20, 30, 30]


def test_a_prior_of_a_weights_file_is_kept_in_the_cache_and_uniform_samples_are_as_ever(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqtk.io.weights import load, weights_of
    from vqtk.render import pictures

    monkeypatch.chdir(tmp_path)
    sampled(weights_of(run), monkeypatch, capsys)
    (kept,) = (tmp_path / ".cache" / "vqtk" / "priors").iterdir()
    assert kept.name.startswith("update_00000000_")
    assert vqtk_main(monkeypatch, "sample", run, "-n", "9", "--bare", "-o", tmp_path / "plain.png") == 0
    pictures.samples(load(run), count=9).write(tmp_path / "expected.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_mistakes_are_told(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert vqtk_main(monkeypatch, "sample", run, "--prior-items", "5") == 2
    assert "Give it with --prior markov." in capsys.readouterr().err
    (run / "prior.safetensors").mkdir()
    assert vqtk_main(monkeypatch, "sample", run, "--prior", "markov", "--prior-items", "5", "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert "nats (" in out
    assert "warning: " in err
    assert "prior.safetensors: the prior cannot be written" in err
