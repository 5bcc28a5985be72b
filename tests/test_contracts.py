"""What every built-in component keeps to, by the registry it stands in: a new one is tested by existing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts import (
    OPTIONS,
    REFUSED,
    SIZES,
    STAGES,
    built_in,
    draw,
    make,
    make_loss,
    make_map,
    make_model,
    outputs,
)
from vqtk.io.weights import load_weights, save_weights
from vqtk.registry import REGISTRIES


def in_dimensions(*kinds: str) -> pytest.MarkDecorator:
    """Each component of these kinds, in each number of dimensions that it works in."""
    cases = [(which, d) for which in built_in(*kinds) for d in SIZES if d not in REFUSED.get(which, ())]
    return pytest.mark.parametrize(("which", "dimensions"), cases, ids=lambda value: str(value))


MAPS = in_dimensions("backbone", "block", "condition", "head", "refiner")
LOSSES = in_dimensions("loss")
PARTS_OF_A_MODEL = built_in(*(kind for kind in REGISTRIES if kind not in ("dataset", "objective")))
MODELS = pytest.mark.parametrize("which", PARTS_OF_A_MODEL)
STEPWISE = pytest.mark.parametrize("which", [which for which in PARTS_OF_A_MODEL if which != "model distilled"])


def close(actual: object, expected: object) -> None:
    assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@MAPS
def test_a_map_yields_finite_features_of_the_width_and_size_it_says(which: str, dimensions: int) -> None:
    module = make_map(which, dimensions)
    yielded = outputs(module, draw(3, 8, *SIZES[dimensions]))
    channels = (OPTIONS, 2) if which.startswith(("head", "refiner")) else (getattr(module, "width", 8),)
    assert yielded.shape == (3, STAGES, *channels, *getattr(module, "size", SIZES[dimensions]))
    assert yielded.isfinite().all()


@MAPS
def test_every_parameter_of_a_map_gets_a_gradient(which: str, dimensions: int) -> None:
    module = make_map(which, dimensions)
    yielded = outputs(module, draw(3, 8, *SIZES[dimensions]).requires_grad_())
    (yielded * draw(*yielded.shape, seed=1)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@MAPS
def test_a_map_treats_each_item_alone_and_always_the_same(which: str, dimensions: int) -> None:
    module, features = make_map(which, dimensions), draw(3, 8, *SIZES[dimensions])
    together = outputs(module, features)
    assert torch.equal(outputs(module, features), together)
    close(torch.cat([outputs(module, item[None]) for item in features]), together)


@in_dimensions("head", "refiner")
def test_the_chosen_deltas_are_those_of_the_full_path(which: str, dimensions: int) -> None:
    module, x = make_map(which, dimensions), draw(5, 8, *SIZES[dimensions])
    codes = torch.tensor([3, 0, 1, 1, 2])
    state = module.initial_state(x) if which.startswith("refiner") else None
    for stage in range(STAGES):
        if which.startswith("head"):
            every, chosen = module(x, stage), module.choose(x, stage, codes)
        else:
            every, carry = module.propose(x, stage, state)
            chosen, kept = module.choose(x, stage, state, codes)
            state = module.advance(carry, codes, x)
            close(module.advance(kept, codes, x), state)
        close(chosen, every[torch.arange(5), codes])


@LOSSES
def test_a_loss_keeps_its_shapes_and_scores_each_option_alone(which: str, dimensions: int) -> None:
    loss, x, deltas, target = make_loss(which, dimensions)
    assert loss.to_channels(x).shape == (3, loss.channels, *loss.size)
    assert loss.show(x).shape == target.shape
    assert deltas.shape == (3, OPTIONS, *loss.shape)
    one = draw(3, OPTIONS, loss.out_channels, *loss.size, seed=1)[:, 2]
    assert torch.equal(loss.from_channels(one), deltas[:, 2])
    grid = loss(x[:, None] + deltas, target)
    assert grid.shape == (3, OPTIONS)
    assert grid.isfinite().all()
    for item, option in ((0, 3), (2, 0)):
        alone = loss((x + deltas[:, option])[item, None, None], target[item, None])
        close(alone[0, 0], grid[item, option])


@LOSSES
@pytest.mark.parametrize("start", [False, True], ids=["x with gradient", "x without"])
def test_selecting_equals_scoring_materialised_proposals(which: str, dimensions: int, start: bool) -> None:
    loss, x, deltas, target = make_loss(which, dimensions)
    leaves = [deltas.requires_grad_()] if start else [deltas.requires_grad_(), x.requires_grad_()]
    codes, shown = torch.tensor([1, 3, 0]), list[Tensor]()
    proposals = x[:, None] + deltas
    plain = loss(proposals, target), torch.stack([proposals[item, code] for item, code in enumerate(codes)])

    grid, chosen, new = loss.select(x, deltas, target, lambda grid: shown.append(grid.clone()) or codes.clone())
    assert torch.equal(chosen, codes)
    assert torch.equal(shown[0], grid)
    assert not shown[0].requires_grad
    close((grid, new), plain)
    weights = [draw(*value.shape, seed=3) for value in plain]
    close(*(torch.autograd.grad(pair, leaves, weights) for pair in ((grid, new), plain)))


@LOSSES
def test_the_gradient_of_a_selection_is_that_of_finite_differences(which: str, dimensions: int) -> None:
    loss, x, deltas, target = make_loss(which, dimensions)
    codes = torch.tensor([1, 3, 0])

    def select(x: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        grid, _, new = loss.select(x, deltas, target, lambda grid: codes.clone())
        return grid, new

    assert torch.autograd.gradcheck(select, (x.requires_grad_(), deltas.detach().requires_grad_()))


def select(selector: Any, grid: Tensor, seed: int) -> Tensor:
    drawn = selector.draw(len(grid), 3, grid.shape[1], torch.Generator().manual_seed(seed), progress=0.5)
    return selector(grid, None if drawn is None else drawn[:, 1])


@pytest.mark.parametrize("which", built_in("selector"))
def test_a_selector_yields_options_that_its_draws_alone_decide(which: str) -> None:
    selector, grid = make(which), draw(50, OPTIONS)
    before, state = grid.clone(), torch.get_rng_state()
    codes = [select(selector, grid, seed) for seed in (1, 1)]
    assert codes[0].shape == (50,)
    assert codes[0].dtype == torch.int64
    assert ((codes[0] >= 0) & (codes[0] < OPTIONS)).all()
    assert torch.equal(*codes)
    assert torch.equal(grid, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("which", built_in("selector"))
def test_a_selector_decides_for_each_item_by_itself(which: str) -> None:
    selector, grid = make(which), draw(50, OPTIONS)
    drawn = selector.draw(50, 1, OPTIONS, torch.Generator().manual_seed(2), progress=0.5)
    parts = [selector(grid[i : i + 7], None if drawn is None else drawn[i : i + 7, 0]) for i in range(0, 50, 7)]
    assert torch.equal(torch.cat(parts), selector(grid, None if drawn is None else drawn[:, 0]))


def test_an_epsilon_of_one_is_uniform_and_of_zero_is_argmin() -> None:
    epsilon, grid = REGISTRIES["selector"].get("epsilon").component, draw(8000, 8)
    counts = select(epsilon(epsilon=1.0), grid, 0).bincount(minlength=8)
    assert (counts - 1000).abs().max() < 5 * (8000 / 8 * 7 / 8) ** 0.5
    assert torch.equal(select(epsilon(epsilon=0.0), grid, 0), grid.argmin(1))
    half = select(epsilon(epsilon=0.5), grid, 0) == grid.argmin(1)
    assert half.double().mean().item() == pytest.approx(0.5 + 0.5 / 8, abs=0.03)


@STEPWISE
def test_a_model_with_it_decodes_its_codes_to_the_walks_own_reconstruction(which: str) -> None:
    model, _, target = make_model(which)
    codes = model.encode(target)
    assert codes.shape == (3, model.stages)
    assert codes.dtype == torch.int64
    assert torch.equal(model.encode(target), codes)
    assert torch.equal(torch.cat([model.encode(item[None]) for item in target]), codes)
    stages = iter(codes.unbind(1))
    walk = model.walk(target, selector=lambda grid, draws: next(stages))
    close(model.decode(codes).detach(), walk.reconstruction.detach())


@MODELS
def test_a_model_with_it_can_be_tried_out_and_every_parameter_takes_part(which: str) -> None:
    model, _, target = make_model(which)
    outcome = model.trial(target)
    outcome.backward()
    assert outcome.isfinite()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@STEPWISE
def test_a_model_with_it_trains_every_parameter(which: str) -> None:
    model, _, target = make_model(which)
    walk = model(target, draws=model.draw(len(target), torch.Generator().manual_seed(0), progress=0.5))
    walk.quantities().objective(all=0.5, final=0.1).backward()
    assert walk.grid.isfinite().all()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@MODELS
def test_a_model_with_it_is_the_same_after_saving_and_loading(which: str, tmp_path: Path) -> None:
    model, recipe, target = make_model(which)
    save_weights(tmp_path / "it.safetensors", model.float(), recipe)
    loaded, same = load_weights(tmp_path / "it.safetensors")
    assert same.plain() == recipe.plain()
    target = target.float() if target.is_floating_point() else target
    codes = [one.eval().encode(target) for one in (model, loaded)]
    assert torch.equal(*codes)
    assert torch.equal(model.decode(codes[0]), loaded.decode(codes[1]))
