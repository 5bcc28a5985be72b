"""Options in use, starts at the data's centres, and training along the path of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import ROOT
from tests.test_searches import model_of, targets
from tests.tiny import experiment, few, shipped
from vqtk.datasets import fixed_subset
from vqtk.datasets._base import Splits
from vqtk.datasets._split import Held
from vqtk.errors import RecipeError
from vqtk.evaluate.references import kmeans, nearest_centroids, start_at_centres
from vqtk.models.vqdraw import VQDraw
from vqtk.process import generator
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.revivals.copy import Copy, groups_of, pairs_to_copy
from vqtk.revivals.redraw import Redraw
from vqtk.searches.beam import Beam

MNIST = ROOT / "recipes" / "mnist.yaml"
UNITS = "[{width: 8, kernel: 3, stride: 2}, {width: 8, kernel: 3, stride: 2}]"
SMALL = ["model.stages=3", "model.options=6", "model.refiner.blocks=[]", f"model.refiner.backbone.layers={UNITS}",
         "model.refiner.head.layers=[{width: 8, upsample: 2, repeat: 2}]"]  # fmt: skip


@pytest.fixture(autouse=True)
def _short_kmeans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.evaluate.references.STEPS", 10)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few(shipped(tmp_path_factory.mktemp("home")))


def built(*overrides: str) -> VQDraw:
    model = build_model(load_recipe(MNIST, [*SMALL, *overrides]))
    assert isinstance(model, VQDraw)
    return model.double()


# ── revivals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([5, 5, 5, 5], []),
        ([6, 5, 5, 4], []),  # The shares differ by 1/8, and none is below 1/8.
        ([8, 4, 4, 4], []),  # 2/5 is below 2/4, and the difference 1/5 below 1/4.
        ([10, 4, 3, 3], [(0, 3)]),  # At least 2/K, with one below 1/K.
        ([9, 4, 4, 3], [(0, 3)]),  # They differ by more than 1/K.
        ([6, 6, 6, 2], [(0, 3)]),  # Below 1/(2K).
        ([10, 9, 1, 0], [(0, 3), (1, 2)]),
        ([0, 0, 0, 0], []),
    ],
    ids=str,
)
def test_an_option_is_copied_over_another_by_the_papers_rule(counts: list[int], found: list[tuple[int, int]]) -> None:
    assert pairs_to_copy(torch.tensor(counts)) == found


def test_stages_that_share_their_options_are_revived_together() -> None:
    assert [group.stages for group in groups_of(built())] == [[0, 1, 2]]
    assert [group.stages for group in groups_of(built("model.segment=2"))] == [[0, 1], [2]]
    per_stage = "model.refiner.head={name: conv_per_stage, layers: [{width: 8, upsample: 2, repeat: 2}]}"
    assert [group.stages for group in groups_of(built(per_stage))] == [[0], [1], [2]]
    assert [group.stages for group in groups_of(built("model.stage_biases=true"))] == [[0, 1, 2]]


def trained_once(model: VQDraw) -> torch.optim.Optimizer:
    """Return an optimiser with moments that differ from option to option."""
    torch.nn.init.normal_(model.bias, std=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.walk(targets(model)).all.backward()
    optimizer.step()
    return optimizer


def test_a_copy_has_the_originals_weights_and_moments() -> None:
    model = built("model.stage_biases=true")
    optimizer = trained_once(model)
    head: Any = model.refiners[0].head.output
    before, bias = head.weight.detach().clone(), model.bias.detach().clone()
    usage = torch.tensor([5, 20, 5, 5, 0, 5]).expand(3, -1)
    Copy(model, window=1, spread=0.25).after_update(optimizer, usage, targets(model), torch.Generator())
    torch.testing.assert_close(head.weight[4], 0.75 * before[1])
    torch.testing.assert_close(head.weight[1], 1.25 * before[1])
    torch.testing.assert_close(model.bias[2, 4], 0.75 * bias[2, 1])
    assert torch.equal(head.weight[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    for parameter in (head.weight, head.bias):
        moments = optimizer.state[parameter]["exp_avg"]
        assert torch.equal(moments[4], moments[1])
        assert not torch.equal(moments[4], moments[0])


def test_a_redrawn_option_is_chosen_again() -> None:
    model = built("model.stage_biases=true", "model.refiner.zero_output=true")
    optimizer, target = trained_once(model), targets(model, 60)
    with torch.no_grad():
        model.bias[:, 3:] += 100.0
    counts = torch.zeros(3, 6, dtype=torch.int64)
    counts[:, :3] = 20
    kept = model.bias.detach().clone()
    Redraw(model, window=1, scale=0.2).after_update(optimizer, counts, target, torch.Generator().manual_seed(0))
    assert torch.equal(model.bias[:, :3], kept[:, :3])
    assert (optimizer.state[model.bias]["exp_avg"][:, 3:] == 0).all()
    assert all({3, 4, 5} <= set(stage.tolist()) for stage in model.encode(target).T)


def test_usage_is_counted_over_a_window(splits: Splits, tmp_path: Path) -> None:
    trainer = experiment(tmp_path, splits, "train.revive={name: copy, window: 3}").trainer
    assert trainer.revival is not None
    batch = [trainer.model.data.normalise(splits.train[torch.arange(8)])]
    for update in range(1, 5):
        trainer.update(batch, updates=20)
        assert int(trainer.revival.counts.sum()) == update % 3 * 8 * trainer.model.stages
    state = trainer.state()
    assert state["revival"]["updates"] == 1


def test_late_in_a_run_options_are_left_as_they_are(splits: Splits, tmp_path: Path) -> None:
    trainer = experiment(tmp_path, splits, "train.revive={name: copy, window: 100, until: 0.5}").trainer
    assert trainer.revival is not None
    batch = [trainer.model.data.normalise(splits.train[torch.arange(8)])]
    for update in range(6):
        trainer.update(batch, updates=6)
        assert trainer.revival.updates == min(update + 1, 3)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.revive=redraw"], "or a refiner with codewords. Set `stage_biases: true` in `model`"),
        (["train.revive=redraw", "model.stage_biases=true", "model.loss=gaussian"], "the loss Gaussian are not"),
    ],
)
def test_a_revival_that_does_not_fit_is_refused(
    overrides: list[str], told: str, splits: Splits, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=told):
        experiment(tmp_path, splits, *overrides)


# ── where training starts ────────────────────────────────────────────────────────────────────────


def test_a_model_that_starts_at_centres_is_residual_kmeans(splits: Splits) -> None:
    model = built("model.stage_biases=true", "model.refiner.zero_output=true").float()
    start_at_centres(model, splits.train, seed=0)
    left = model.data.normalise(splits.train[fixed_subset(splits.train, len(splits.train), 0)])
    expected = left.flatten(1)
    for stage in range(3):
        centres = kmeans(expected, 6, seed=generator(0, "init", stage).initial_seed() % 2**32)
        torch.testing.assert_close(model.bias[stage].flatten(1), centres)
        expected = expected - centres[nearest_centroids(expected, centres)]
    some = left[:20]
    reached = (some - model.decode(model.encode(some))).flatten(1)
    torch.testing.assert_close(reached, expected[:20], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage_biases", [True, False])
def test_kmeans_takes_all_examples_that_it_can_hold(
    stage_biases: bool, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqtk.evaluate import references

    counts = []
    centres = references.kmeans

    def counted(vectors: torch.Tensor, options: int, *, seed: int) -> torch.Tensor:
        counts.append(len(vectors))
        return centres(vectors, options, seed=seed)

    monkeypatch.setattr(references, "kmeans", counted)
    model = built(f"model.stage_biases={str(stage_biases).lower()}").float()
    for most, expected in ((len(splits.train), len(splits.train)), (30, 30)):
        monkeypatch.setattr(references, "MOST_VALUES", most * 28 * 28)
        counts.clear()
        start_at_centres(model, splits.train, seed=0)
        assert set(counts) == {expected}


def test_a_model_with_one_bias_starts_at_the_centres_of_its_first_stage(splits: Splits) -> None:
    model = built().float()
    start_at_centres(model, splits.train, seed=0)
    assert model.bias.shape == (6, 1, 28, 28)
    assert model.bias.abs().sum((1, 2, 3)).min() > 0


def test_losses_without_residuals_have_no_centres_to_start_at() -> None:
    model = build_model(load_recipe(ROOT / "recipes" / "wikitext2.yaml", ["model.stages=2", "data.vocabulary=8"]))
    tokens = Held(torch.zeros(4, *model.data.shape, dtype=torch.uint8))
    with pytest.raises(RecipeError, match=r"train\.init: kmeans: .* not in units of the data"):
        start_at_centres(model, tokens, seed=0)


def test_an_output_at_zero_changes_nothing_before_training() -> None:
    for head in ("conv", "conv_per_stage", "lowrank"):
        model = built(f"model.refiner.head={{name: {head}, layers: [{{width: 8, upsample: 2, repeat: 2}}]}}",
                      "model.refiner.zero_output=true")  # fmt: skip
        assert (model.proposals(torch.zeros(2, 1, dtype=torch.int64)) == 0).all()
        model.walk(targets(model)).all.backward()
        assert all((rows.parameter.grad != 0).any() for rows in model.option_rows(1)), head


# ── the path of a search ─────────────────────────────────────────────────────────────────────────


def objective_of(model: VQDraw, **settings: Any) -> Any:
    spec = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return load_recipe(MNIST, [f"train.objective={{{spec}}}"]).train.objective(model, lambda name: None)


@pytest.mark.parametrize("name", ["mnist", "mnist_recurrent"])
def test_the_loss_along_a_path_is_that_of_its_prefixes(name: str) -> None:
    model = model_of(name)
    target = targets(model)
    objective = objective_of(model, all=0.5, final=0.25, path="{name: beam, width: 3}")
    passed = objective(target, draws=objective.prepare(target, None), recompute=0)
    codes = model.encode(target, search=Beam(width=3))
    assert not torch.equal(codes, model.encode(target))
    after = model.decode_stages(codes)
    losses = (after - target[:, None]).square().flatten(2).mean(2)
    every = torch.stack([
        (model.proposals(codes[:, :s]) - target[:, None]).square().flatten(2).mean(2) for s in range(model.stages)
    ])  # fmt: skip
    assert torch.equal(passed.codes, codes)
    torch.testing.assert_close(passed.terms["choice"], losses.mean())
    torch.testing.assert_close(passed.terms["final"], losses[:, -1].mean())
    torch.testing.assert_close(passed.loss, losses.mean() + 0.5 * every.mean() + 0.25 * losses[:, -1].mean())


def gradients(model: VQDraw, target: Tensor, recompute: int, **settings: Any) -> list[Tensor]:
    objective = objective_of(model, path="{name: beam, width: 3}", **settings)
    draws = objective.draw(len(target), torch.Generator().manual_seed(0), progress=0.0)
    model.zero_grad()
    objective(target, draws=objective.prepare(target, draws), recompute=recompute).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("settings", [{"all": 0.5, "final": 0.1}, {"all": 0, "sampled": 2}], ids=str)
def test_a_path_is_recomputed_with_the_same_gradient(settings: dict[str, float]) -> None:
    model = model_of("mnist_recurrent")
    target = targets(model)
    for one, other in zip(
        gradients(model, target, 0, **settings), gradients(model, target, 9, **settings), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_path_and_an_exploring_selector_are_refused() -> None:
    with pytest.raises(RecipeError, match="the selector Epsilon chooses the path, and so does `path`"):
        objective_of(built("model.selector=epsilon"), path="beam")


def test_an_average_takes_over_what_was_revived(splits: Splits, tmp_path: Path) -> None:
    settings = ["train.revive={name: redraw, window: 2}", "model.stage_biases=true", "train.ema=0.9"]
    trainer = experiment(tmp_path, splits, *settings).trainer
    batch = [
        trainer.model.data.normalise(splits.train[torch.arange(2)])
    ]  # Two examples leave two of four options idle.
    for _ in range(2):
        trainer.update(batch, updates=20)
    model: Any = trainer.model
    with trainer.evaluated():
        averaged = model.bias.detach().clone()
    idle = (averaged - model.bias.detach()).flatten(2).abs().amax(2) == 0
    assert all(2 <= count < 4 for count in idle.sum(1).tolist())  # Two examples leave two options idle, or three.


def test_an_optimizer_that_averages_cannot_be_revived(splits: Splits, tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    with pytest.raises(RecipeError, match=r"train\.revive: the optimizer averages weights itself"):
        experiment(tmp_path, splits, "train.optimizer=schedule_free", "train.revive=copy")


# ── pre-selection ────────────────────────────────────────────────────────────────────────────────


def qinco(*overrides: str) -> VQDraw:
    model = built(
        "model.refiner={name: qinco, width: 8, hidden: 8, blocks: 1, zero_last: false, scale: 0.5}", *overrides
    )
    return model.train()


def test_training_along_a_preselection_computes_its_options_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = qinco()
    target = targets(model)
    objective = objective_of(model, all=0, final=0.5, path="{name: preselect, candidates: 2}")
    draws = objective.prepare(target, None)
    computed: list[int] = []
    step = VQDraw.step

    def counting(self: VQDraw, x: Tensor, state: Any, stage: int, codes: Tensor | None = None) -> Any:
        computed.append(self.options if codes is None else codes[0].numel())
        return step(self, x, state, stage, codes)

    monkeypatch.setattr(VQDraw, "step", counting)
    passed = objective(target, draws=draws, recompute=0)
    assert computed == [6, 1, 1]  # Of the first stage all, but for one example.
    after = model.decode_stages(passed.codes)
    losses = (after - target[:, None]).square().flatten(2).mean(2)
    assert torch.equal(passed.codes, draws["along"])
    torch.testing.assert_close(passed.loss, losses.mean() + 0.5 * losses[:, -1].mean())
    passed.loss.backward()
    assert model.refiners[0].codewords.grad[2].abs().sum() > 0


def test_the_recall_of_a_preselection_is_how_often_it_contains_the_best_option() -> None:
    model = qinco()
    target = targets(model, 40)
    recalls = [
        objective_of(model, all=0, path=f"{{name: preselect, candidates: {candidates}}}").figures(lambda: target)
        for candidates in (1, 3, 6)
    ]
    one, three, six = (found["preselect_recall"] for found in recalls)
    assert 1 / 6 < one < three < six == 1
    walk = model.walk(target)
    before = [torch.zeros_like(target), *model.decode_stages(walk.codes).unbind(1)][:3]
    agreed = [
        (model.loss(x[:, None] + model.guess(x, None, s), target).argmin(1) == walk.codes[:, s]).double().mean().item()
        for s, x in enumerate(before)
    ]
    assert one == pytest.approx(sum(agreed) / 3)


def test_codewords_start_at_centres_and_are_redrawn(splits: Splits) -> None:
    model = qinco().float()
    start_at_centres(model, splits.train, seed=0)
    assert (model.bias == 0).all()
    codewords: Any = model.refiners[0].codewords
    left = model.data.normalise(splits.train[fixed_subset(splits.train, len(splits.train), 0)]).flatten(1)
    centres = kmeans(left, 6, seed=generator(0, "init", 0).initial_seed() % 2**32)
    torch.testing.assert_close(codewords[0], centres)
    optimizer = torch.optim.Adam(model.parameters())
    counts = torch.tensor([5, 5, 5, 5, 5, 0]).expand(3, -1)
    before = codewords.detach().clone()
    target = model.data.normalise(splits.train[torch.arange(8)])
    Redraw(model, window=1).after_update(optimizer, counts, target, torch.Generator().manual_seed(0))
    assert torch.equal(codewords[:, :5], before[:, :5])
    assert (codewords[:, 5] != before[:, 5]).any(1).all()
