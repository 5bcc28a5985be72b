"""The example plugins that carry a state or mend themselves: recurrent, side_memory, coarse_to_fine and ddn."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from tests.tiny import shipped
from vqtk.backbones.conv import ConvBackbone
from vqtk.blocks.conv import ConvBlock
from vqtk.conditions.scale import Scale
from vqtk.errors import ShapeError
from vqtk.heads.conv import ConvHead
from vqtk.heads.conv_per_stage import ConvPerStageHead
from vqtk.nn.unit import Unit
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.training.loop import Trainer

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = ["recurrent", "side_memory", "coarse_to_fine", "ddn"]
SIZE = (4, 8)
backbone = partial(ConvBackbone, layers=[Unit(8, stride=2)], condition=Scale)
block = partial(ConvBlock, width=8, condition=Scale)
head = partial(ConvHead, layers=[Unit(6, upsample=2)], condition=Scale)
per_stage = partial(ConvPerStageHead, layers=[Unit(6, upsample=2)], condition=Scale)
NARROW = [
    "model.refiner.backbone.layers=[{width: 8, stride: 2}, {width: 8, stride: 2}]",
    "model.refiner.blocks=[{name: conv, width: 8}]",
    "model.refiner.head.layers=[{width: 8, upsample: 2, repeat: 2}]",
]
PARTS = {"backbone": backbone, "blocks": [block], "head": head}


def recipe(name: str, *overrides: str) -> Recipe:
    small = ["model.stages=7", "model.options=4", "data.batch=8", "train.updates=4", *overrides]
    return load_recipe(RECIPES / f"mnist_{name}.yaml", small)


def component(name: str) -> Any:
    return type(build_model(recipe(name), device="meta").refiners[0])


def make(
    name: str, settings: dict[str, Any], *, size: tuple[int, ...] = SIZE, stages: int = 3, options: int = 4
) -> Any:
    torch.manual_seed(0)
    return component(name)(2, size, stages, options, 1, **settings).double()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_decodes_its_codes_to_the_walks_own_reconstruction(name: str) -> None:
    model = build_model(recipe(name), dtype=torch.float64)
    target = synthetic(model.data, 3).double()
    codes = model.encode(target)
    with torch.no_grad():
        assert_close(model.decode(codes), model.walk(target).reconstruction, rtol=1e-9, atol=1e-12)
        assert torch.equal(torch.cat([model.encode(item[None]) for item in target]), codes)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_every_parameter(name: str) -> None:
    it = recipe(name, *([] if name == "coarse_to_fine" else NARROW))
    trainer = Trainer(it, build_model(it))
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    for _ in range(2):
        trainer.update([synthetic(trainer.model.data, 4)], updates=4)
    assert not [key for key, value in trainer.model.named_parameters() if torch.equal(value, before[key])]


@pytest.mark.parametrize("name", ["recurrent", "side_memory", "ddn"])
def test_a_state_tells_walks_apart_that_have_the_same_reconstruction(name: str) -> None:
    refiner, x = make(name, PARTS), draw(2, 2, *SIZE)
    _, carry = refiner.propose(x, 0, refiner.initial_state(x))
    (one, _), (other, _) = (
        refiner.propose(x, 1, refiner.advance(carry, torch.tensor([code, code]), x)) for code in (0, 3)
    )
    assert torch.equal(one, other) == (name == "side_memory")
    assert not torch.allclose(one, refiner.propose(x, 1, refiner.initial_state(x))[0])


# ── recurrent ────────────────────────────────────────────────────────────────────────────────────


def test_the_memory_is_that_of_a_textbook_gru() -> None:
    refiner, x = make("recurrent", {**PARTS, "memory": 5}), draw(3, 2, *SIZE)
    memory, codes = draw(3, 5, seed=1), torch.tensor([2, 0, 3])
    features = refiner.backbone(x, 1) + (memory @ refiner.remind.weight.T)[:, :, None, None]
    seen = torch.cat([refiner.blocks(features, 1).mean((2, 3)), refiner.option.weight[codes]], 1)
    cell = refiner.cell
    into = (seen @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
    kept = (memory @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
    reset, update = torch.sigmoid(into[0] + kept[0]), torch.sigmoid(into[1] + kept[1])
    expected = (1 - update) * torch.tanh(into[2] + reset * kept[2]) + update * memory
    deltas, carry = refiner.propose(x, 1, memory)
    assert_close(refiner.advance(carry, codes, x), expected)
    assert_close(deltas, 0.1 * refiner.head(refiner.blocks(features, 1), 1), rtol=1e-6, atol=1e-7)


# ── side_memory ──────────────────────────────────────────────────────────────────────────────────


def test_the_map_takes_a_gated_step_of_at_most_one() -> None:
    refiner, x = make("side_memory", {**PARTS, "channels": 4}), draw(3, 2, *SIZE)
    memory = draw(3, 4, 2, 4, seed=1)
    features = refiner.blocks(torch.cat([refiner.backbone(x, 2), memory], 1), 2)
    written = F.conv2d(features, refiner.write.weight, refiner.write.bias)
    expected = memory + torch.tanh(written[:, 4:]) / (1 + torch.exp(-written[:, :4]))
    assert_close(refiner.propose(x, 2, memory)[1], expected)
    assert (expected - memory).abs().max() < 1


@pytest.mark.parametrize("name", ["side_memory", "ddn"])
def test_blocks_that_change_the_size_are_refused(name: str) -> None:
    with pytest.raises(ShapeError, match="Remove `stride` and `upsample` from the blocks"):
        make(name, {**PARTS, "blocks": [partial(ConvBlock, width=8, stride=2, condition=Scale)]})


# ── coarse_to_fine ───────────────────────────────────────────────────────────────────────────────


def level(factor: int = 1, stages: int | None = None, **parts: Any) -> Any:
    made: Any = sys.modules[component("coarse_to_fine").__module__]
    plain = {"backbone": partial(ConvBackbone, layers=[Unit(8)], condition=Scale), "head": partial(head, layers=[])}
    return made.Level(**{**plain, **parts}, factor=factor, stages=stages)


def test_a_coarse_level_sees_means_and_its_deltas_are_interpolated() -> None:
    refiner, x = make("coarse_to_fine", {"levels": [level(2, 1), level()]}, size=(4,)), draw(3, 2, 4)
    means = torch.stack([x[..., :2].mean(2), x[..., 2:].mean(2)], 2)
    left, right = refiner.networks[0].propose(means, 0, None)[0].unbind(3)
    expected = torch.stack([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right], 3)
    assert_close(refiner.propose(x, 0, None)[0], expected)
    assert_close(refiner.propose(x, 2, None)[0], refiner.networks[1].propose(x, 1, None)[0])


def test_levels_beyond_the_last_stage_are_left_out() -> None:
    refiner = make("coarse_to_fine", {"levels": [level(4, 2), level(2, 3), level()]}, stages=4)
    assert [network.size for network in refiner.networks] == [(1, 2), (2, 4)]
    assert refiner.places == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_levels_that_do_not_fit_are_refused() -> None:
    for levels, message in (
        ([level(3)], "level 0: `factor` 3 does not divide the size"),
        ([level(2, 1), level(1, 1)], "the levels have 2 of 3 stages"),
        ([level(2, backbone=backbone)], "level 0: its head returns size"),
    ):
        with pytest.raises(ShapeError, match=message):
            make("coarse_to_fine", {"levels": levels})


# ── ddn ──────────────────────────────────────────────────────────────────────────────────────────


def plugin_ddn() -> Any:
    return sys.modules[component("ddn").__module__]


@pytest.mark.parametrize(
    ("counts", "pair", "after"),
    [
        ([9, 3, 3, 1], (0, 3), [5, 3, 3, 4]),
        ([1, 10, 4, 1], (1, 0), [5, 5, 4, 1]),
        ([9, 3, 2, 2], None, [9, 3, 2, 2]),
        ([8, 5, 2, 1], None, [8, 5, 2, 1]),
        ([0, 0, 0, 0], None, [0, 0, 0, 0]),
    ],
    ids=["frequent and rare", "the first of two rare", "just too frequent", "just too rare", "no counts"],
)
def test_counts_are_split_as_by_hand(counts: list[int], pair: tuple[int, int] | None, after: list[int]) -> None:
    changed = torch.tensor(counts)
    assert plugin_ddn().split_and_prune(changed, 2.0, 0.5) == pair
    assert changed.tolist() == after


def trained(refiner: Any) -> torch.optim.Adam:
    """Adam after a step in which every parameter had a gradient of its own."""
    optimizer = torch.optim.Adam(refiner.parameters())
    for seed, parameter in enumerate(refiner.parameters()):
        parameter.grad = draw(*parameter.shape, seed=seed)
    optimizer.step()
    return optimizer


def everything(refiner: Any, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """All parameters, and what Adam knows of each."""
    found = {name: value.detach().clone() for name, value in refiner.named_parameters()}
    for name, parameter in refiner.named_parameters():
        found |= {f"{name} {key}": value.clone() for key, value in optimizer.state[parameter].items()}
    return found


def test_an_option_is_copied_with_all_that_belongs_to_it_and_nothing_else_changes() -> None:
    refiner = make("ddn", {**PARTS, "channels": 3, "pace": 5})
    optimizer = trained(refiner)
    before = everything(refiner, optimizer)
    refiner.after_update(optimizer, torch.tensor([[1, 0, 4, 1], [3, 0, 6, 1], [1, 1, 3, 0]]))
    assert refiner.counts.tolist() == [[5, 6, 7, 2]]
    of_options = [f"{name}.{kind}" for name in ("head.output", "passing.0") for kind in ("weight", "bias")]
    copied = [f"{name}{moment}" for name in of_options for moment in ("", " exp_avg", " exp_avg_sq")]
    after = everything(refiner, optimizer)
    for name, value in before.items():
        if name in copied:
            rows, width = value.clone(), len(value) // 4
            assert not torch.equal(rows[width : 2 * width], rows[2 * width : 3 * width])
            rows[width : 2 * width] = rows[2 * width : 3 * width]
            value = rows
        assert torch.equal(after[name], value), name


def test_outputs_of_each_stages_own_count_alone_and_a_shared_one_counts_all() -> None:
    usage = torch.tensor([[9, 3, 3, 1], [1, 3, 3, 9], [4, 4, 4, 4]])
    shared, own = (make("ddn", {**PARTS, "head": which, "pace": 0}) for which in (head, per_stage))
    optimizer = trained(own)
    before = everything(own, optimizer)
    shared.after_update(trained(shared), usage)
    own.after_update(optimizer, usage[:2])
    assert shared.counts.tolist() == [[14, 10, 10, 14]]
    assert own.counts.tolist() == [[5, 3, 3, 4], [4, 3, 3, 5], [0, 0, 0, 0]]
    after = everything(own, optimizer)
    options = [after[f"head.outputs.{stage}.bias"].tolist() for stage in range(3)]
    old = [before[f"head.outputs.{stage}.bias"].tolist() for stage in range(3)]
    assert options == [[*old[0][:3], old[0][0]], [old[1][3], *old[1][1:]], old[2]]


def test_a_replacement_waits_for_as_many_choices_as_the_pace_says() -> None:
    refiner = make("ddn", {**PARTS, "pace": 5})
    optimizer = trained(refiner)
    totals = []
    for _ in range(4):
        refiner.after_update(optimizer, torch.tensor([[0, 0, 10, 0]]))
        totals.append((refiner.counts.tolist(), refiner.since.tolist()))
    assert totals == [
        ([[0, 0, 10, 0]], [10]),
        ([[10, 0, 10, 0]], [0]),
        ([[10, 0, 20, 0]], [10]),
        ([[10, 15, 15, 0]], [0]),
    ]


@pytest.mark.parametrize("which", [head, per_stage], ids=["shared", "per stage"])
def test_the_features_passed_on_are_the_chosen_options(which: Any) -> None:
    refiner, x = make("ddn", {**PARTS, "head": which, "channels": 3}), draw(4, 2, *SIZE)
    state, codes = draw(4, 3, 2, 4, seed=1), torch.tensor([3, 0, 1, 1])
    features = refiner.blocks(torch.cat([refiner.backbone(x, 2), state], 1), 2)
    passing = refiner.passing[-1]
    every = F.conv2d(features, passing.weight, passing.bias).reshape(4, 4, 3, 2, 4)
    expected = torch.stack([every[item, code] for item, code in enumerate(codes)])
    assert_close(refiner.advance(refiner.propose(x, 2, state)[1], codes, x), expected)


def test_a_head_without_rows_of_options_is_refused() -> None:
    class Plain(ConvHead):
        def __init__(self, *supplied: Any) -> None:
            super().__init__(*supplied, layers=[Unit(6, upsample=2)], condition=Scale)
            self.made, self.output = self.output, None

    with pytest.raises(ShapeError, match="has no `output` or `outputs` with 4 rows"):
        make("ddn", {**PARTS, "head": Plain})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return shipped(tmp_path_factory.mktemp("home")).train[torch.arange(16)]


def dead(digits: Tensor, *overrides: str) -> tuple[Trainer, Tensor]:
    """A network with 3 options of 4 that are too far off to be chosen by any item, and items."""
    it = recipe("ddn", "model.stages=2", "model.selector=argmin", "model.refiner.pace=0", *NARROW, *overrides)
    trainer = Trainer(it, build_model(it))
    with torch.no_grad():
        trainer.model.refiners[0].head.output.bias[1:] = 1000.0
    return trainer, trainer.model.data.normalise(digits)


def test_dead_options_come_back_by_split_and_prune_alone(digits: Tensor) -> None:
    never = ["model.refiner.split_threshold=4", "model.refiner.prune_threshold=0"]
    for overrides, comes_back in (([], True), (never, False)):
        trainer, items = dead(digits, *overrides)
        used = []
        for _ in range(12):
            trainer.update([items], updates=1000)
            used.append(trainer.usage().sum(0) > 0)
        assert used[0].tolist() == [True, False, False, False]
        assert torch.stack(used)[:, 1:].any() == comes_back


def test_a_network_that_splits_is_the_same_after_a_resumption(digits: Tensor) -> None:
    (whole, items), (first, _), (second, _) = dead(digits), dead(digits), dead(digits)
    for trainer, updates in ((whole, 4), (first, 2)):
        for _ in range(updates):
            trainer.update([items], updates=4)
    second.model.load_state_dict(first.model.state_dict())
    second.restore(first.state())
    for _ in range(2):
        second.update([items], updates=4)
    counts = whole.model.refiners[0].counts
    assert (counts > 0).sum() > 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
