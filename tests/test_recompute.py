"""Memory for time: recomputed stages keep their input alone, and sampled options are all options on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import ROOT
from tests.test_update import batch, trainer
from vqtk.evaluate.bench import textbook_walk
from vqtk.evaluate.profile import peak_bytes
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.training.execution import resolve

CIFAR = ROOT / "recipes" / "cifar10.yaml"
SMALL = ["model.refiner.blocks=[]", "model.options=8"]


def peak_mb(stages: int, *, recompute: int | None) -> float:
    """The most memory of a forward and backward pass on 4 images, counted without computing anything.

    With None it is the textbook's, with checkpoints at every √S-th stage.
    """
    recipe = load_recipe(CIFAR, [f"model.stages={stages}", *SMALL])
    model = build_model(recipe, device="meta")
    target = torch.zeros(4, 3, 32, 32, device="meta")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with peak_bytes(torch.device("meta")) as peak:
        if recompute is None:
            walk = textbook_walk(model, target, segment=int(stages**0.5))
        else:
            walk = model.walk(target, recompute=recompute)
        (walk.choice + 0.01 * walk.all).backward()
    return peak[0] / 1e6


@pytest.mark.thorough
def test_recomputing_every_stage_takes_the_memory_of_one_whatever_their_number() -> None:
    few, many = peak_mb(4, recompute=4), peak_mb(16, recompute=16)
    kept = (16 - 4) * 4 * (3 * 32 * 32 + 8) * 4 / 1e6  # Reconstructions and grids.
    assert many - few < 1.25 * kept
    assert many < peak_mb(16, recompute=None) / 2


@pytest.mark.thorough
def test_the_stages_that_are_kept_are_those_that_memory_is_taken_for() -> None:
    none, some, all_but = peak_mb(12, recompute=0), peak_mb(12, recompute=6), peak_mb(12, recompute=11)
    assert all_but < some < none
    assert some == pytest.approx(none / 2, rel=0.2)


@pytest.mark.parametrize(("asked", "expected"), [("true", 10), ("false", 0), ("3", 7), ("99", 0), ("auto", 0)], ids=str)
def test_a_recipe_says_how_many_stages_are_recomputed(asked: str, expected: int) -> None:
    recipe = load_recipe(ROOT / "recipes" / "mnist.yaml", [f"train.gradient_checkpointing={asked}"])
    assert resolve(recipe, build_model(recipe)).recompute == expected


def test_auto_recomputes_as_few_stages_as_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(CIFAR, ["data.batch=8", "model.segment=100"])
    model = build_model(recipe, device="meta")
    found = []
    for gigabytes in (1000, 8, 4, 0.01):
        monkeypatch.setattr("vqtk.training.execution._memory", lambda device, size=gigabytes: size * 1e9)
        found.append(resolve(recipe, model).recompute)
    assert found[0] == 0
    assert 0 < found[1] < found[2] < found[3] == 99
    kept = [(100 - stages) / size for stages, size in zip(found[1:3], (8, 4), strict=True)]
    assert kept[0] == pytest.approx(kept[1], rel=0.1)


# ── options that are drawn ───────────────────────────────────────────────────────────────────────


def gradients(model: Any, target: Tensor, options: Tensor | None, **how: Any) -> tuple[Any, list[Tensor]]:
    model.zero_grad()
    walk = model.walk(target, sampled=options, **how)
    every = walk.all if walk.sampled is None else walk.sampled.mean()
    (walk.choice + 0.5 * every).backward()
    return walk, [parameter.grad.clone() for parameter in model.parameters()]


VARIANTS = {
    "mse": [],
    "gaussian": ["model.loss=gaussian"],
    "segments, decay": ["model.segment=1", "model.grad_decay=0.3"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_all_options_drawn_once_are_the_full_gradient(overrides: list[str], tmp_path: Path) -> None:
    model = trainer(tmp_path, *overrides, dtype=torch.float64).model
    target = batch(dtype=torch.float64)
    every = torch.arange(model.options).expand(len(target), model.stages, -1)
    full, expected = gradients(model, target, None)
    sampled, found = gradients(model, target, every)
    torch.testing.assert_close(sampled.grid, full.grid)
    torch.testing.assert_close(sampled.sampled, full.grid)
    assert torch.equal(sampled.codes, full.codes)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_along_a_path_that_explores_the_best_option_still_counts(tmp_path: Path) -> None:
    model = trainer(tmp_path, dtype=torch.float64).model
    target, path = batch(dtype=torch.float64), torch.randint(4, (8, 2), generator=torch.Generator().manual_seed(5))
    every = torch.arange(model.options).expand(len(target), model.stages, -1)
    ways = [{"selector": lambda grid, draws: draws, "draws": path} for _ in range(2)]
    full, expected = gradients(model, target, None, **ways[0])
    sampled, found = gradients(model, target, every, **ways[1])
    assert torch.equal(sampled.codes, path)
    torch.testing.assert_close(sampled.reconstruction, full.reconstruction)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_the_sampled_gradient_is_unbiased(tmp_path: Path) -> None:
    model = trainer(tmp_path, dtype=torch.float64).model
    target = batch(dtype=torch.float64)
    _, expected = gradients(model, target, None)
    generator, draws = torch.Generator().manual_seed(0), []
    for _ in range(200):
        options = torch.randint(4, (len(target), 2, 1), generator=generator)
        draws.append(torch.cat([one.flatten() for one in gradients(model, target, options)[1]]))
    found, wanted = torch.stack(draws), torch.cat([one.flatten() for one in expected])
    error = found.std(0) / len(draws) ** 0.5
    moved = error > 1e-12 * wanted.abs().max()
    z = ((found.mean(0) - wanted) / error)[moved]
    assert z.abs().mean() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.15)
    assert z.abs().max() < 6


def test_an_update_with_sampled_options_reports_all_of_them(tmp_path: Path) -> None:
    plain, sampled = trainer(tmp_path), trainer(tmp_path, "train.objective.sampled=2")
    for one in (plain, sampled):
        one.update([batch()], updates=5)
    assert sampled.metrics() == pytest.approx(plain.metrics(), rel=1e-5)
    again = trainer(tmp_path, "train.objective.sampled=2", "train.micro_batch=3")
    again.update([batch()], updates=5)
    for p, q in zip(sampled.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
