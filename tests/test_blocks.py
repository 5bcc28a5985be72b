"""The blocks that the originals do not have, against the same written out in loops over channels and positions."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from vqtk.blocks.attention import Attention
from vqtk.blocks.convnext import ConvNeXt
from vqtk.blocks.depthwise import Depthwise
from vqtk.blocks.mixer import Mixer
from vqtk.blocks.stage_norm import StageNorm
from vqtk.conditions.film import Film
from vqtk.conditions.none import NoCondition
from vqtk.conditions.scale import Scale
from vqtk.errors import ShapeError
from vqtk.nn.convolution import convolution

STAGES, WIDTH = 3, 6
SIZES = {1: (5,), 2: (4, 3), 3: (3, 2, 4)}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DIMENSIONS = pytest.mark.parametrize("dimensions", SIZES)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(component: Any, size: tuple[int, ...], **settings: Any) -> Any:
    """A block in float64, each of its parameters drawn, so that none is what it is at the start."""
    module = component(WIDTH, size, STAGES, **settings).double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed))
    return module


def close(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def at_each_position(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of the channels, applied to every position of every item by itself."""
    positions = x.reshape(*x.shape[:2], -1)
    items = [torch.stack([function(item[:, p]) for p in range(positions.shape[2])], 1) for item in positions]
    return torch.stack(items).reshape(len(x), -1, *x.shape[2:])


def channel_by_channel(x: Tensor, module: Any) -> Tensor:
    """A depthwise convolution, as a convolution of one channel for each."""
    convolve, padding = CONVOLVE[x.dim() - 2], module.weight.shape[-1] // 2
    channels = zip(x.unbind(1), module.weight, module.bias, strict=True)
    return torch.cat([convolve(c[:, None], w[None], b[None], padding=padding) for c, w, b in channels], 1)


def normed(vector: Tensor, norm: Any) -> Tensor:
    centred = vector - vector.mean()
    return norm.weight * centred / (centred.square().mean() + norm.eps).sqrt() + norm.bias


def linear(vector: Tensor, module: Any) -> Tensor:
    return module.weight.flatten(1) @ vector + module.bias


def grouped(size: tuple[int, ...], *, kernel: int) -> Any:
    return convolution(WIDTH, WIDTH, size, kernel=kernel, groups=WIDTH)[0]


def gelu(vector: Tensor) -> Tensor:
    return torch.stack([v * (1 + erf(v / sqrt(2))) / 2 for v in vector.detach()])


@DIMENSIONS
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_a_depthwise_convolution_is_one_convolution_for_each_channel(dimensions: int, kernel: int) -> None:
    x, module = draw(2, WIDTH, *SIZES[dimensions]), grouped(SIZES[dimensions], kernel=kernel)
    assert sum(p.numel() for p in module.parameters()) == WIDTH * (kernel**dimensions + 1)
    close(module.double()(x), channel_by_channel(x, module))


def test_a_depthwise_convolution_starts_as_torchs_own() -> None:
    torch.manual_seed(0)
    ours = list(grouped((4, 3), kernel=3).parameters())
    torch.manual_seed(0)
    assert all(map(torch.equal, ours, nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH).parameters()))


@DIMENSIONS
def test_the_depthwise_block_convolves_each_channel_and_then_each_position(dimensions: int) -> None:
    size = SIZES[dimensions]
    x, block = draw(2, WIDTH, *size), made(Depthwise, size, width=4, kernel=5, condition=Scale)
    assert block.width == 4
    for stage, scale in enumerate(block.condition.scales):

        def mixed(vector: Tensor, scale: Tensor = scale) -> Tensor:
            return (linear(vector, block.pointwise) * scale).clamp(min=0)

        close(block(x, stage), at_each_position(channel_by_channel(x, block.depthwise), mixed))


def test_the_depthwise_block_keeps_the_width_unless_it_is_told_another() -> None:
    assert Depthwise(WIDTH, (4, 3), STAGES, condition=Scale).width == WIDTH


@DIMENSIONS
@pytest.mark.parametrize("layer_scale", [0.1, None])
def test_convnext_is_the_papers_block_with_its_conditions(dimensions: int, layer_scale: float | None) -> None:
    x, settings = draw(2, WIDTH, *SIZES[dimensions]), {"kernel": 3, "expansion": 2, "layer_scale": layer_scale}
    block = made(ConvNeXt, SIZES[dimensions], condition=Scale, **settings)
    for stage in range(STAGES):

        def branch(vector: Tensor, stage: int = stage) -> Tensor:
            inner = normed(vector, block.norm) * block.normed_condition.scales[stage]
            out = linear(gelu(linear(inner, block.expand) * block.wide_condition.scales[stage]), block.project)
            return out if layer_scale is None else out * block.layer_scale.flatten()

        close(block(x, stage), x + at_each_position(channel_by_channel(x, block.depthwise), branch))


def test_convnext_with_a_small_layer_scale_begins_near_the_identity() -> None:
    x = draw(2, WIDTH, 4, 3).float()
    block = ConvNeXt(WIDTH, (4, 3), STAGES, layer_scale=1e-6, condition=Film)
    assert 0 < (block(x, 1) - x).abs().max() < 1e-5


@DIMENSIONS
def test_the_mixer_mixes_positions_then_channels_with_its_conditions(dimensions: int) -> None:
    x = draw(2, WIDTH, *SIZES[dimensions])
    block = made(Mixer, SIZES[dimensions], condition=Scale, positions=5, expansion=2)
    for stage in range(STAGES):

        def normed_at(index: int, given: Tensor, stage: int = stage) -> Tensor:
            scale = block.conditions[index].scales[stage]
            return at_each_position(given, lambda vector: normed(vector, block.norms[index]) * scale)

        along = normed_at(0, x).flatten(2)
        rows = [[linear(linear(row, block.spread).clamp(min=0), block.gather) for row in one] for one in along]
        mixed = x + torch.stack([torch.stack(one) for one in rows]).reshape(x.shape)

        def changed(vector: Tensor) -> Tensor:
            return linear(linear(vector, block.expand).clamp(min=0), block.project)

        close(block(x, stage), mixed + at_each_position(normed_at(1, mixed), changed))


def attended(x: Tensor, block: Any, heads: int) -> Tensor:
    """Attention of one item (c, p), written out: for each head and position a softmax over all positions."""
    queries, keys, values = (block.project.weight @ x).chunk(3)
    width, out = len(x) // heads, torch.zeros_like(x)
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        for p in range(x.shape[1]):
            weights = torch.stack([queries[rows, p] @ keys[rows, q] for q in range(x.shape[1])]).div(sqrt(width)).exp()
            out[rows, p] = (weights / weights.sum() * values[rows]).sum(1)
    return torch.stack([linear(column, block.merge) for column in out.unbind(1)], 1)


@DIMENSIONS
@pytest.mark.parametrize("heads", [1, 3])
@torch.no_grad()
def test_attention_is_a_softmax_over_all_positions_and_two_layers(dimensions: int, heads: int) -> None:
    size = SIZES[dimensions]
    x, block = draw(2, WIDTH, *size), made(Attention, size, heads=heads, expansion=2, condition=Scale)
    for stage in range(STAGES):

        def seen(x: Tensor, index: int, stage: int = stage) -> Tensor:
            scale = block.conditions[index].scales[stage]
            return at_each_position(x, lambda vector: normed(vector, block.norms[index]) * scale)

        placed = (seen(x, 0) + block.positions.table).flatten(2)
        after = x + torch.stack([attended(item, block, heads) for item in placed]).reshape(x.shape)
        layers = at_each_position(seen(after, 1), lambda v: linear(gelu(linear(v, block.layers[0])), block.layers[2]))
        close(block(x, stage), after + layers)


@pytest.mark.parametrize("positions", [True, False])
def test_attention_sees_the_order_of_positions_only_if_it_has_positions(positions: bool) -> None:
    x, block = draw(2, WIDTH, 4, 3), made(Attention, (4, 3), heads=2, positions=positions, condition=NoCondition)
    turned = block(x.flip(2, 3), 0).flip(2, 3)
    assert torch.allclose(turned, block(x, 0)) is not positions


def test_attention_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ShapeError, match=r"4 heads do not divide 6 channels\. Choose a divisor of 6"):
        Attention(WIDTH, (4, 3), STAGES, condition=Scale)


@pytest.mark.parametrize("size", [(), *SIZES.values()])
@pytest.mark.parametrize("relu", [True, False])
def test_stage_norm_is_each_groups_own_norm_with_the_stages_scale_and_shift(size: tuple[int, ...], relu: bool) -> None:
    x, block = draw(2, WIDTH, *size), made(StageNorm, size, groups=2, relu=relu)
    for stage in range(STAGES):
        expected = torch.zeros_like(x)
        for item in range(2):
            for channel in range(WIDTH):
                group = x[item, :3] if channel < 3 else x[item, 3:]
                centred = (x[item, channel] - group.mean()) / (group.var(correction=0) + 1e-5).sqrt()
                expected[item, channel] = (
                    centred * block.affine.scales[stage, channel] + block.affine.shifts[stage, channel]
                )
        close(block(x, stage), expected.clamp(min=0) if relu else expected)


def test_stage_norm_of_one_group_is_a_layer_norm() -> None:
    x, block = draw(2, WIDTH, 4, 3), StageNorm(WIDTH, (4, 3), STAGES, relu=False).double()
    with torch.no_grad():
        block.affine.scales.fill_(1)
    close(block(x, 2), F.layer_norm(x, x.shape[1:]))


def test_stage_norm_refuses_groups_that_do_not_divide_and_groups_of_one_value() -> None:
    with pytest.raises(ShapeError, match="4 groups do not divide 6 channels"):
        StageNorm(WIDTH, (4, 3), STAGES, groups=4)
    with pytest.raises(ShapeError, match="one value each"):
        StageNorm(WIDTH, (1, 1), STAGES, groups=WIDTH)


@pytest.mark.parametrize("component", [Depthwise, ConvNeXt, Attention])
def test_vectors_are_refused(component: Any) -> None:
    with pytest.raises(ShapeError, match=r"works in 1, 2 or 3 dimensions.* Use a `conv` block"):
        component(WIDTH, (), STAGES, condition=Scale)


@pytest.mark.parametrize("component", [Depthwise, ConvNeXt])
def test_an_even_kernel_is_refused(component: Any) -> None:
    with pytest.raises(ShapeError, match="kernel 4 is even"):
        component(WIDTH, (4, 3), STAGES, kernel=4, condition=Scale)
