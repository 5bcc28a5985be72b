"""One update, the order of the items, the learning rate's way down, and how a time budget is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import RECIPE
from vqtk.datasets import Order
from vqtk.errors import VqtkError
from vqtk.process import generator
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.budget import Durations, seconds
from vqtk.schedules.constant import Constant
from vqtk.schedules.cosine import Cosine
from vqtk.schedules.linear import Linear
from vqtk.training.loop import Trainer

EXPLORING = "model.selector={name: epsilon, epsilon: 0.5}"


def trainer(folder: Path, *overrides: str, dtype: torch.dtype = torch.float32) -> Any:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, overrides)
    return Trainer(recipe, build_model(recipe, dtype=dtype))


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(one: Trainer, other: Trainer, tolerance: float) -> None:
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


@pytest.mark.parametrize("selector", ["model.selector=argmin", EXPLORING], ids=["argmin", "exploring"])
@pytest.mark.parametrize("pieces", [1, 3, 4])
def test_micro_batches_change_an_update_by_rounding_alone(pieces: int, selector: str, tmp_path: Path) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        whole = trainer(tmp_path, selector, "train.objective.final=0.1", dtype=dtype)
        split = trainer(tmp_path, selector, "train.objective.final=0.1", f"train.micro_batch={pieces}", dtype=dtype)
        batches = [batch(0, dtype), batch(1, dtype)]
        for one in (whole, split):
            one.update(batches, updates=5)
        assert_near(whole, split, tolerance)
        assert torch.equal(whole.usage(), split.usage())
        assert split.metrics() == pytest.approx(whole.metrics(), rel=1e-6)


@pytest.mark.parametrize("selector", ["model.selector=argmin", EXPLORING], ids=["argmin", "exploring"])
@pytest.mark.parametrize("recompute", ["true", "1"])
def test_gradient_checkpointing_does_not_change_an_update(recompute: str, selector: str, tmp_path: Path) -> None:
    plain = trainer(tmp_path, selector, "train.gradient_checkpointing=false")
    saving = trainer(tmp_path, selector, f"train.gradient_checkpointing={recompute}")
    for one in (plain, saving):
        one.update([batch()], updates=5)
    assert_near(plain, saving, 1e-6)


@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_an_update_in_bfloat16_measures_what_one_in_float32_does(loss: str, tmp_path: Path) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        it = trainer(tmp_path, f"model.loss={loss}", f"train.precision={precision}")
        it.update([batch()], updates=5)
        found.append({key: value for key, value in it.metrics().items() if key in ("choice", "final", "all")})
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_the_gradients_of_batches_are_summed(tmp_path: Path) -> None:
    it = trainer(tmp_path, "train.objective.final=0.1", dtype=torch.float64)
    wanted = [torch.zeros_like(p) for p in it.model.parameters()]
    for seed in (0, 1):
        walk = it.model(batch(seed, torch.float64))
        objective = walk.choice + 0.01 * walk.all + 0.1 * walk.final
        for total, gradient in zip(wanted, torch.autograd.grad(objective, list(it.model.parameters())), strict=True):
            total += gradient
    it.update([batch(0, torch.float64), batch(1, torch.float64)], updates=5)
    torch.testing.assert_close([p.grad for p in it.model.parameters()], wanted, rtol=1e-9, atol=1e-12)


def test_metrics_are_those_of_each_batch_before_the_weights_changed(tmp_path: Path) -> None:
    it = trainer(tmp_path)
    with torch.no_grad():
        walks = [it.model.walk(batch(seed)) for seed in (0, 1)]
    it.update([batch(0), batch(1)], updates=5)
    row = it.metrics()
    for key in ("choice", "final", "all"):
        expected = [getattr(walk, key).item() for walk in walks]
        assert [passed.terms[key].item() for passed in it.passes.own()] == pytest.approx(expected, rel=1e-6)
        assert row[key] == pytest.approx(sum(expected) / 2, rel=1e-6)
    chosen = torch.cat([walk.grid.argmin(2) for walk in walks])
    for stage, counts in enumerate(it.usage()):
        assert torch.equal(counts, torch.bincount(chosen[:, stage], minlength=4))
    shares = [count / chosen.numel() for count in torch.bincount(chosen.flatten()).tolist() if count]
    assert row["used"] == len(shares)
    assert row["entropy_pooled_nats"] == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-5)
    assert row["lr"] == pytest.approx(1e-3 * 4 / 5 + 1e-4 / 5)
    assert it.done == 1


def test_the_linear_schedule_is_the_originals() -> None:
    for update in (1, 2, 700, 1000):
        expected = 1e-3 * (1 - update / 1000) + 1e-4 * update / 1000
        assert Linear(final=1e-4)(update, 1000, 1e-3) == pytest.approx(expected)
    assert Linear()(1000, 1000, 1e-3) == 0
    assert Linear(final=1e-3)(17, 1000, 1e-3) == pytest.approx(1e-3)


def test_the_cosine_schedule_goes_from_lr_to_final_and_is_half_way_in_the_middle() -> None:
    cosine = Cosine(final=1e-4)
    rates = [cosine(update, 1000, 1e-3) for update in range(1, 1001)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1e-3, rel=1e-5)
    assert rates[499] == pytest.approx(5.5e-4)
    assert rates[249] == pytest.approx(1e-4 + 9e-4 * (1 + math.sqrt(0.5)) / 2)
    assert rates[-1] == pytest.approx(1e-4)


def test_the_constant_schedule_is_constant() -> None:
    assert {Constant()(update, 50, 1e-3) for update in range(1, 51)} == {1e-3}


@pytest.mark.parametrize("kind", [Linear, Cosine, Constant])
def test_a_warm_up_climbs_to_lr_and_the_schedule_runs_over_the_rest(kind: Any) -> None:
    schedule = kind(final=2e-4, warmup=10)
    climbing = [schedule(update, 110, 1e-3) for update in range(1, 11)]
    assert climbing == pytest.approx([1e-4 * update for update in range(1, 11)])
    without = kind(final=2e-4)
    for update in (1, 50, 100):
        expected = without(update, 100, 1e-3)
        assert schedule(10 + update, 110, 1e-3) == pytest.approx(expected)


@pytest.mark.parametrize("items", [1, 7, 32])
def test_every_epoch_is_a_permutation_of_its_own(items: int) -> None:
    order = Order(items, seed=3)
    epochs = [order(epoch * items, items) for epoch in range(4)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(items))
    assert items < 7 or len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_any_stretch_of_the_order_is_the_same_however_it_is_asked_for() -> None:
    whole = Order(7, seed=3)(0, 100)
    for start, count in ((0, 5), (5, 4), (13, 30), (99, 1), (2, 1), (50, 50)):
        assert torch.equal(Order(7, seed=3)(start, count), whole[start : start + count])
    order = Order(7, seed=3)
    assert torch.equal(torch.cat([order(start, 10) for start in range(0, 100, 10)]), whole)
    assert not torch.equal(Order(7, seed=4)(0, 100), whole)


def test_generators_of_different_places_draw_different_numbers() -> None:
    places = [(0, "epoch", 1), (0, "epoch", 2), (1, "epoch", 1), (0, "explore", 1), (0, "explore", 1, 1)]
    drawn = {torch.rand((), generator=generator(*place)).item() for place in places}
    assert len(drawn) == len(places)
    assert torch.rand((), generator=generator(0, "epoch", 1)).item() in drawn


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("1h5m10s", 3910)],
)
def test_a_budget_is_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "5min", "-5m", "1e3s", "0s", "5m!", "5m\n"])
def test_a_budget_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(VqtkError, match="--budget"):
        seconds(text)


def test_a_budget_counts_evaluations_pictures_and_the_end() -> None:
    measured = Durations(step_s=0.1, evaluation_s=2.0, pictures_s=1.0)
    often = {"evaluate_every": 20, "picture_minutes": 5.0}
    # Pictures: the first after a minute, then every five until the end: 2 + (600 - 60) // 300.
    updates = measured.updates_within(600, **often, final_s=10)
    assert updates == int((600 - 10 - 3 * 1.0) / (0.1 + 2.0 / 20))
    assert measured.updates_within(50, **often, final_s=10) == int((50 - 10 - 1.0) / 0.2), "no first images"
    assert measured.updates_within(1, **often, final_s=10) == 1
