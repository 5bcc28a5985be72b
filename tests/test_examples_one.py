"""The example plugins that change one thing: frame_stack, gated, attention_text, l1, perceptual and softmax."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.running import without_data
from vqtk.datasets._base import Splits
from vqtk.datasets._split import Held
from vqtk.datasets.mnist import MNIST
from vqtk.errors import DataError, RecipeError, VqtkError
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = ["model.stages=3", "model.options=4"]
PARTS = ["model.refiner.backbone={name: conv, layers: [{width: 8, stride: 2}]}", "model.refiner.blocks=[]"]
PARTS += ["model.refiner.head={name: conv, layers: [{width: 8, upsample: 2}]}"]
TEXT = ["data.length=6", "data.vocabulary=5", "model.segment=2", "model.refiner.width=8", "model.refiner.depth=2"]


def built(recipe: str, *overrides: str, moved: float = 0.0) -> Any:
    """A recipe's model in float64 with few stages and options, its weights moved off their starting values."""
    model = build_model(load_recipe(RECIPES / f"{recipe}.yaml", [*SMALL, *overrides]), dtype=torch.float64)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter += moved * draw(*parameter.shape, seed=seed)
    return model


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: object, expected: object) -> None:
    assert_close(actual, expected, rtol=1e-9, atol=1e-12)


# ── frame_stack ──────────────────────────────────────────────────────────────────────────────────


def test_stacked_frames_are_the_last_reconstructions_and_zeros_before_them() -> None:
    model, seen = built("mnist_frame_stack", "model.refiner.frames=3", *PARTS, moved=0.1), list[Tensor]()
    model.refiners[0].backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    codes = torch.tensor([[3, 0, 1], [1, 2, 2]])
    after = model.decode_stages(codes)
    nothing = torch.zeros_like(after[:, 0])
    for stage, (first, second, third) in enumerate(
        [(nothing,) * 3, (after[:, 0], nothing, nothing), (after[:, 1], after[:, 0], nothing)]
    ):
        stacked = torch.cat([first, second, third], 1)
        # One example stands for all of them at the first stage.
        close(seen[stage].detach(), stacked[: len(seen[stage])])


def test_one_frame_is_the_composed_refiner() -> None:
    stacked, plain = built("mnist_frame_stack", "model.refiner.frames=1", *PARTS), built("mnist", *PARTS)
    plain.load_state_dict(stacked.state_dict())
    target = draw(3, 1, 28, 28)
    close(stacked.walk(target).grid, plain.walk(target).grid)


def test_a_full_gradient_decay_cuts_the_gradient_through_earlier_frames_too() -> None:
    gradients = []
    for decay in (0, 1):
        model = built("mnist_frame_stack", "model.refiner.frames=3", f"model.grad_decay={decay}", *PARTS, moved=0.1)
        model.decode(torch.tensor([[3, 0, 1]])).square().sum().backward()
        gradients.append(model.bias.grad[3])
    assert gradients[0].any()
    assert not gradients[1].any()


# ── gated ────────────────────────────────────────────────────────────────────────────────────────


def test_a_gated_stage_moves_the_reconstruction_towards_a_value() -> None:
    model = built("mnist_gated", *PARTS, moved=0.3)
    refiner, codes = model.refiners[0], torch.tensor([[3, 0, 1], [1, 2, 2]])
    after = model.decode_stages(codes)
    own = after - model.bias[codes[:, 0]][:, None]
    for stage in (1, 2):
        features = refiner.blocks(refiner.backbone(after[:, stage - 1], stage), stage)
        head = refiner.head(features, stage) * refiner.output_scale
        value, gate = head[torch.arange(2), codes[:, stage]].unbind(1)
        g = 1 / (1 + torch.exp(3 - gate))
        v = value * (1 + math.exp(3))
        expected = (1 - g) * own[:, stage - 1, 0] + g * v
        close(own[:, stage, 0].detach(), expected.detach())


def test_with_a_low_bias_gated_updates_start_as_additive_ones() -> None:
    low, x = built("mnist_gated", "model.refiner.gate_bias=-20", *PARTS).refiners[0], draw(2, 1, 28, 28)
    deltas, _ = low.propose(x, 1, draw(2, 1, 28, 28, seed=1))
    head = low.head(low.blocks(low.backbone(x, 1), 1), 1) * low.output_scale
    values, gates = head.chunk(2, 2)
    assert_close(deltas, values * gates.exp(), rtol=1e-5, atol=1e-7)


# ── attention_text ───────────────────────────────────────────────────────────────────────────────


def test_an_attention_layer_is_that_of_torch_with_the_stages_scales() -> None:
    layer = built("wikitext2_attention", *TEXT, moved=0.3).refiners[0].layers[0]
    x, stage, heads = draw(2, 6, 8), 1, layer.heads
    theirs = nn.MultiheadAttention(8, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.queries_keys_values.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(layer.joined.state_dict())
        normed = F.layer_norm(x, (8,), layer.norms[0].weight, layer.norms[0].bias)
        y = x + theirs(normed, normed, normed)[0] * layer.conditions[0].scales[stage]
        normed = F.layer_norm(y, (8,), layer.norms[1].weight, layer.norms[1].bias)
        expected = y + layer.narrow(F.gelu(layer.wide(normed))) * layer.conditions[1].scales[stage]
        close(layer(x, stage), expected)


def test_attention_reaches_from_every_position_to_every_other() -> None:
    refiner = built("wikitext2_attention", *TEXT, moved=0.3).refiners[0]
    x = draw(1, 5, 6).requires_grad_()
    refiner.propose(x, 0, None)[0][..., 0].square().sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(RecipeError, match="3 heads and width 8"):
        built("wikitext2_attention", *TEXT, "model.refiner.heads=3")


# ── l1 and perceptual ────────────────────────────────────────────────────────────────────────────


def test_l1_is_torchs_own() -> None:
    loss, target, proposals = built("mnist_l1").loss, draw(2, 1, 28, 28), draw(2, 4, 1, 28, 28, seed=1)
    grid = loss(proposals, target)
    for item, option in ((0, 3), (1, 0)):
        close(grid[item, option], F.l1_loss(proposals[item, option], target[item]))


@pytest.mark.parametrize("at_once", [3, 256])
def test_the_perceptual_loss_is_a_distance_of_features_of_pixels(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = built("mnist_perceptual", "model.loss.mse=0.25").loss
    monkeypatch.setattr(sys.modules[type(loss).__module__], "AT_ONCE", at_once)
    target, proposals = draw(2, 1, 28, 28), draw(2, 4, 1, 28, 28, seed=1).requires_grad_()
    grid = loss(proposals, target)
    one = [(image * 0.3081 + 0.1307)[None] for image in (proposals[1, 2], target[1])]
    steps = []
    for convolution, _ in loss.network:
        one = [F.relu(F.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=1)) for x in one]
        steps.append(F.mse_loss(*one))
    expected = 0.25 * F.mse_loss(proposals[1, 2], target[1]) + 0.75 * sum(steps) / 2
    close(grid[1, 2], expected)
    found, aimed = (torch.autograd.grad(value, proposals, retain_graph=True)[0] for value in (grid[1, 2], expected))
    close(found, aimed)


def test_features_are_frozen_and_no_checkpoint_holds_them() -> None:
    model = built("mnist_perceptual")
    assert not [name for name in [*model.state_dict(), *dict(model.named_parameters())] if "network" in name]
    assert not [value for value in model.loss.buffers() if value.requires_grad]


def test_trained_features_classify_and_are_read_from_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_data(monkeypatch, tmp_path)
    plugin = sys.modules[type(built("mnist_perceptual").loss).__module__]
    accuracy = plugin.train_features("mnist", tmp_path / "features.safetensors", updates=60)
    assert accuracy > 0.7
    settings = ["model.loss.features=small", f"model.loss.weights={tmp_path}/features.safetensors"]
    networks = [built("mnist_perceptual", *settings, f"seed={seed}").loss.network for seed in (0, 1)]
    for mine, other in zip(*(network.buffers() for network in networks), strict=True):
        assert torch.equal(mine, other)
    items = Held(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    monkeypatch.setattr(MNIST, "load", lambda *_: Splits(items, items, source="nowhere"))
    with pytest.raises(DataError, match="no labels"):
        plugin.train_features("mnist", tmp_path / "other.safetensors")


def test_weights_that_are_missing_or_of_other_data_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs `weights`.*python plugins/perceptual\.py"):
        built("mnist_perceptual", "model.loss.features=small")
    for features in ("small", "vgg16"):
        with pytest.raises(RecipeError, match=r"nowhere\.safetensors: cannot be read as weights of"):
            built(
                "mnist_perceptual",
                f"model.loss={{name: perceptual, features: {features}, weights: nowhere.safetensors}}",
            )
    colour = tmp_path / "colour.safetensors"
    save_file({"0.0.weight": torch.zeros(16, 3, 3, 3)}, colour)
    with pytest.raises(RecipeError, match=r"0\.0\.weight is \(16, 3, 3, 3\), not \(16, 1, 3, 3\)"):
        built("mnist_perceptual", f"model.loss={{name: perceptual, features: small, weights: {colour}}}")


def test_vgg_features_are_torchvisions_of_grey_repeated_and_enlarged(tmp_path: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    theirs = make_layers(cfgs["D"][:9])
    torch.save({f"features.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "vgg.pth")
    loss = built(
        "mnist_perceptual", f"model.loss={{name: perceptual, features: vgg16, weights: {tmp_path}/vgg.pth}}"
    ).loss
    pixels = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    units = (pixels.repeat(1, 3, 1, 1) - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    expected = theirs.double()(F.interpolate(units.double(), (32, 32), mode="bilinear"))
    found = loss._features((pixels.double() - 0.1307) / 0.3081)
    assert [tuple(step.shape[1:]) for step in found] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert_close(found[-1], expected, rtol=1e-5, atol=1e-6)


# ── softmax ──────────────────────────────────────────────────────────────────────────────────────


def selector(**settings: Any) -> Any:
    return type(built("mnist_softmax").selector)(**settings)


def test_options_are_taken_with_the_probabilities_of_a_softmax() -> None:
    chooser, losses = selector(start=0.4, end=0.1), torch.tensor([0.0, 0.1, 0.3, 0.35])
    grid = losses.expand(20_000, 4)
    for progress, temperature in ((0.0, 0.4), (0.5, 0.2), (1.0, 0.1)):
        draws = chooser.draw(20_000, 1, 4, torch.Generator().manual_seed(0), progress=progress)
        counts = chooser(grid, draws[:, 0]).bincount(minlength=4) / 20_000
        assert_close(counts, torch.softmax(-losses / temperature, 0), rtol=0, atol=0.012)


def test_the_temperature_falls_by_equal_steps_too_and_at_zero_the_best_option_is_taken() -> None:
    linear, grid = selector(start=0.4, end=0.0, anneal="linear"), draw(50, 4)
    assert [linear.temperature(progress) for progress in (0, 0.25, 1)] == pytest.approx([0.4, 0.3, 0.0])
    draws = linear.draw(50, 1, 4, torch.Generator().manual_seed(0), progress=1.0)
    assert torch.equal(linear(grid, draws[:, 0]), grid.argmin(1))
    assert torch.equal(linear(grid, None), grid.argmin(1))


def test_no_factor_leads_to_temperature_zero() -> None:
    with pytest.raises(VqtkError, match="anneal: linear"):
        selector(start=0.4, end=0.0)
