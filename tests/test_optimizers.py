"""Optimisers, clipping and averaged weights compute what they should, and go on bit for bit from a saved state."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.test_update import batch, trainer
from tests.tiny import RECIPE, experiment, few, shipped, train
from vqtk.errors import RecipeError, VqtkError
from vqtk.io.run_files import checkpoints
from vqtk.io.weights import load_weights
from vqtk.optimizers import muon
from vqtk.plugin.sources import new_plugin
from vqtk.recipe.build import build_model, validate
from vqtk.recipe.recipe import load_recipe
from vqtk.training.loop import Trainer

CLIPPED = ["train.clip_value=0.01", "train.clip_norm=0.02"]
VARIANTS = {
    "averaged, clipped and accumulating": ["train.ema=0.9", *CLIPPED],
    "sgd": ["train.optimizer={name: sgd, nesterov: true}", "train.ema=0.9"],
    "muon": ["train.optimizer=muon", "train.schedule={name: cosine, warmup: 2}"],
    "schedule_free": ["train.optimizer={name: schedule_free, weight_decay: 0.1}", "train.schedule.warmup=2"],
}


def values(it: Any) -> list[Tensor]:
    return [value.detach().clone() for value in it.model.parameters()]


def evaluated(it: Any) -> list[Tensor]:
    with it.evaluated():
        return values(it)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def gradients(it: Any, *batches: Tensor) -> list[Tensor]:
    """The sum of the gradients of batches, by autograd alone."""
    walks = [it.model(one) for one in batches]
    return list(torch.autograd.grad(sum(w.choice + 0.01 * w.all for w in walks), list(it.model.parameters())))


# ── averaged weights ─────────────────────────────────────────────────────────────────────────────


def test_averaged_weights_are_evaluated_and_the_others_are_trained(tmp_path: Path) -> None:
    plain, averaged = trainer(tmp_path), trainer(tmp_path, "train.ema=0.3")
    expected = values(plain)
    for update in range(1, 7):
        for it in (plain, averaged):
            it.update([batch(update)], updates=6)
        decay = min(0.3, update / (9 + update))
        expected = [decay * kept + (1 - decay) * new for kept, new in zip(expected, values(plain), strict=True)]
        torch.testing.assert_close(evaluated(averaged), expected, rtol=1e-5, atol=1e-7)
        assert same(values(averaged), values(plain))
    assert not same(evaluated(averaged), values(averaged))


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_state_of_any_update_goes_on_bit_for_bit_and_evaluations_change_nothing(
    overrides: list[str], tmp_path: Path
) -> None:
    def update(it: Any) -> None:
        it.update([batch(2 * it.done), batch(2 * it.done + 1)], updates=4)

    whole = trainer(tmp_path, *overrides)
    states: list[tuple[io.BytesIO, list[Tensor]]] = []
    for _ in range(4):
        file = io.BytesIO()
        torch.save(whole.state(), file)
        states.append((file, evaluated(whole)))
        update(whole)
    for file, weights in states:
        resumed = trainer(tmp_path, *overrides)
        with torch.no_grad():
            for value, weight in zip(resumed.model.parameters(), weights, strict=True):
                value.copy_(weight)
        file.seek(0)
        resumed.restore(torch.load(file, weights_only=True))
        while resumed.done < 4:
            update(resumed)
        assert same(values(resumed), values(whole))
        assert same(evaluated(resumed), evaluated(whole))


def test_a_run_saves_the_weights_that_it_evaluates(tmp_path: Path) -> None:
    it = experiment(tmp_path, few(shipped(tmp_path)), "train.updates=3", "train.ema=0.9")
    directory = train(it, tmp_path)
    (saved,) = checkpoints(directory.path)
    model, _ = load_weights(saved)
    assert same(list(model.parameters()), evaluated(it.trainer))
    assert not same(list(model.parameters()), values(it.trainer))
    with it.trainer.evaluated() as averaged, torch.no_grad():
        target = batch()
        assert torch.equal(model.encode(target), averaged.encode(target))


def test_weights_are_not_averaged_twice(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.ema: the optimizer averages weights itself \(ScheduleFree\)"):
        trainer(tmp_path, "train.ema=0.9", "train.optimizer=schedule_free")


# ── clipping ─────────────────────────────────────────────────────────────────────────────────────


def test_values_of_the_gradient_are_clipped_and_then_its_norm_which_is_logged(tmp_path: Path) -> None:
    it = trainer(tmp_path, *CLIPPED)
    clamped = [value.clamp(-0.01, 0.01) for value in gradients(it, batch(0), batch(1))]
    norm = torch.cat([value.flatten() for value in clamped]).norm().item()
    assert norm > 0.02
    it.update([batch(0), batch(1)], updates=5)
    found = [value.grad for value in it.model.parameters()]
    torch.testing.assert_close(found, [value * 0.02 / norm for value in clamped], rtol=1e-4, atol=1e-7)
    assert it.metrics()["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_gradient_within_its_limits_is_left_alone(tmp_path: Path) -> None:
    plain, clipped = trainer(tmp_path), trainer(tmp_path, "train.clip_value=1e6", "train.clip_norm=1e6")
    for it in (plain, clipped):
        it.update([batch()], updates=5)
    assert same(values(plain), values(clipped))
    assert "grad_norm" not in plain.metrics()


# ── optimisers ───────────────────────────────────────────────────────────────────────────────────


def test_the_default_is_adam_as_torch_has_it(tmp_path: Path) -> None:
    it = trainer(tmp_path)
    textbook = trainer(tmp_path)
    adam = torch.optim.Adam(textbook.model.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-5, fused=True)
    for update in range(1, 4):
        for value, gradient in zip(textbook.model.parameters(), gradients(it, batch(update)), strict=True):
            value.grad = gradient
        adam.param_groups[0]["lr"] = 1e-3 * (1 - update / 5) + 1e-4 * update / 5
        adam.step()
        it.update([batch(update)], updates=5)
        torch.testing.assert_close(values(it), values(textbook), rtol=1e-5, atol=1e-7)


def test_muon_is_timms_for_matrices_and_adamw_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.optim import Muon as Reference
    from timm.optim import muon as timms

    # It iterates in bfloat16 everywhere; ours does not on a CPU.
    exact = partial(timms.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(timms, "zeropower_via_newtonschulz", lambda *given, **named: exact(*given, **named))

    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2), nn.Linear(6, 5)
        return nn.ModuleList([*layers, nn.Linear(6, 5), nn.Embedding(7, 6)])

    with torch.random.fork_rng():
        own, other = network(), network()
    settings = {"lr": 0.01, "momentum": 0.9, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1}
    matrices = [name for name, value in own.named_parameters() if any(value is one for one in muon.matrices_of(own))]
    assert matrices == ["0.weight", "2.weight", "3.weight", "4.weight"]
    named = dict(other.named_parameters())
    rest = [value for name, value in named.items() if name not in matrices]
    reference = Reference(
        [{"params": [named[name] for name in matrices], "nesterov": True}],
        lr=0.01, momentum=0.9, weight_decay=0.1,
    )  # fmt: skip
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    one = muon.Muon(own, **settings)  # type: ignore[arg-type]
    for seed in range(3):
        drawn = torch.Generator().manual_seed(seed)
        for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=drawn)
            theirs.grad = mine.grad.clone()
        for optimizer in (one, reference, adamw):
            optimizer.step()
    for (name, mine), theirs in zip(own.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_schedule_free_weights_are_the_packages(tmp_path: Path) -> None:
    from schedulefree import AdamWScheduleFree

    it, textbook = (trainer(tmp_path, "train.optimizer=schedule_free", "train.schedule=constant") for _ in range(2))
    reference = AdamWScheduleFree(textbook.model.parameters(), lr=2.5e-3)
    for update in range(3):
        reference.train()
        for value, gradient in zip(textbook.model.parameters(), gradients(textbook, batch(update)), strict=True):
            value.grad = gradient
        reference.step()
        it.update([batch(update)], updates=3)
    reference.eval()
    torch.testing.assert_close(evaluated(it), values(textbook), rtol=1e-5, atol=1e-6)
    assert it.optimizer.param_groups[0]["train_mode"]


def test_what_an_optimizer_needs_is_said_when_the_recipe_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "tiny.yaml", ["train.optimizer={name: sgd, momentum: 0, nesterov: true}"])
    with pytest.raises(RecipeError, match=r"train\.optimizer: `nesterov` looks ahead along the momentum"):
        validate(recipe)

    def absent(*_: object, **__: object) -> None:
        raise VqtkError("not installed")

    monkeypatch.setattr("schedulefree.AdamWScheduleFree.__init__", absent)
    with pytest.raises(RecipeError, match=r"train\.optimizer: not installed"):
        validate(load_recipe(tmp_path / "tiny.yaml", ["train.optimizer=schedule_free"]))


def test_a_recipe_uses_an_optimizer_and_a_schedule_of_plugins(tmp_path: Path) -> None:
    new_plugin("signs", "optimizer", tmp_path)
    new_plugin("squared", "schedule", tmp_path)
    (tmp_path / "own.yaml").write_text("plugins: [signs.py, squared.py]\n" + RECIPE)
    recipe = load_recipe(
        tmp_path / "own.yaml", ["train.optimizer={name: signs, lr: 0.01}", "train.schedule={name: squared, power: 3}"]
    )
    it = Trainer(recipe, build_model(recipe))
    before, gradient = values(it), gradients(it, batch())
    it.update([batch()], updates=4)
    rate = 0.01 * (1 - 1 / 4) ** 3
    assert it.rate == pytest.approx(rate)
    expected = [value - rate * step.sign() for value, step in zip(before, gradient, strict=True)]
    torch.testing.assert_close(values(it), expected, rtol=1e-6, atol=1e-7)
