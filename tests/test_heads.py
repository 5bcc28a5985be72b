"""The heads that the originals do not have, against torch's own operations and against materialised weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from vqtk.conditions.scale import Scale
from vqtk.errors import ShapeError
from vqtk.heads.conv import ConvHead
from vqtk.heads.lowrank import LowRankHead
from vqtk.heads.subpixel import SubpixelHead
from vqtk.nn.unit import Unit

WIDTH, STAGES, OPTIONS, CHANNELS = 6, 3, 4, 2
SIZES = {1: (5,), 2: (4, 3), 3: (3, 2, 4)}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DIMENSIONS = pytest.mark.parametrize("dimensions", SIZES)
CODES = torch.tensor([3, 0, 2])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(component: Any, size: tuple[int, ...], **settings: Any) -> Any:
    torch.manual_seed(0)
    return component(WIDTH, size, STAGES, OPTIONS, CHANNELS, condition=Scale, **settings).double()


def close(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_subpixel_head_is_torchs_pixel_shuffle_in_two_dimensions(factor: int) -> None:
    x, head = draw(3, WIDTH, 4, 3), made(SubpixelHead, (4, 3), factor=factor)
    assert head.size == (4 * factor, 3 * factor)
    flat = F.pixel_shuffle(F.conv2d(x, head.output.weight, head.output.bias, padding=1), factor)
    close(head(x, 0), flat.reshape(3, OPTIONS, CHANNELS, *head.size))


@DIMENSIONS
def test_the_subpixel_head_puts_each_channel_at_its_pixel(dimensions: int) -> None:
    factor, size = 2, SIZES[dimensions]
    x, head = draw(3, WIDTH, *size), made(SubpixelHead, size, factor=factor)
    coarse = CONVOLVE[dimensions](x, head.output.weight, head.output.bias, padding=1)
    coarse = coarse.reshape(3, OPTIONS, CHANNELS, *[factor] * dimensions, *size)
    deltas = head(x, 0)
    assert deltas.shape == (3, OPTIONS, CHANNELS, *(factor * length for length in size))
    for position in itertools.product(*(range(factor * length) for length in size)):
        channel, cell = tuple(p % factor for p in position), tuple(p // factor for p in position)
        assert torch.equal(deltas[(..., *position)], coarse[(..., *channel, *cell)])


def mixed_weights(head: Any, stage: int) -> tuple[Tensor, Tensor]:
    """Every option's own filters and biases, by a loop over options and maps."""
    weight = head.output.weight.reshape(head.mixtures.shape[2], CHANNELS, *head.output.weight.shape[1:])
    bias = head.output.bias.reshape(-1, CHANNELS)
    rows = head.mixtures[stage if len(head.mixtures) > 1 else 0]
    weights = [sum(m * w for m, w in zip(row, weight, strict=True)) for row in rows]
    biases = [sum(m * b for m, b in zip(row, bias, strict=True)) for row in rows]
    return torch.cat(weights), torch.cat(biases)  # type: ignore[arg-type]


@DIMENSIONS
@pytest.mark.parametrize("per_stage", [True, False])
def test_the_lowrank_head_is_a_convolution_with_the_materialised_weights(dimensions: int, per_stage: bool) -> None:
    size = SIZES[dimensions]
    x, head = draw(3, WIDTH, *size), made(LowRankHead, size, rank=3, per_stage=per_stage)
    assert head.mixtures.shape == (STAGES if per_stage else 1, OPTIONS, 3)
    for stage in range(STAGES):
        expected = CONVOLVE[dimensions](x, *mixed_weights(head, stage), padding=1)
        close(head(x, stage), expected.reshape(3, OPTIONS, CHANNELS, *size))
    assert torch.equal(head(x, 0), head(x, 1)) is not per_stage


def test_the_lowrank_heads_deltas_span_no_more_directions_than_its_rank() -> None:
    head = made(LowRankHead, (4, 3), rank=2)
    assert all(torch.linalg.matrix_rank(item.flatten(1)) == 2 for item in head(draw(3, WIDTH, 4, 3), 1))


def test_the_lowrank_head_begins_with_deltas_as_large_as_those_of_a_conv_head() -> None:
    x, sizes = draw(20, 32, 8, 8), []
    for component in (ConvHead, LowRankHead):
        torch.manual_seed(0)
        sizes.append(component(32, (8, 8), 4, 64, 1, condition=Scale).double()(x, 0).std().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_the_lowrank_head_takes_vectors() -> None:
    x, head = draw(3, WIDTH), made(LowRankHead, (), rank=3)
    expected = F.linear(x, *mixed_weights(head, 2)).reshape(3, OPTIONS, CHANNELS)
    close(head(x, 2), expected)
    close(head.choose(x, 2, CODES), expected[torch.arange(3), CODES])


def test_more_options_cost_the_lowrank_head_a_mixture_each_and_no_filters() -> None:
    few, many = (LowRankHead(8, (4, 3), STAGES, k, 1, rank=5, condition=Scale) for k in (4, 400))
    parameters = [sum(p.numel() for p in head.parameters()) for head in (few, many)]
    assert parameters == [5 * (9 * 8 + 1) + STAGES * k * 5 for k in (4, 400)]


@DIMENSIONS
@pytest.mark.parametrize("component", [SubpixelHead, LowRankHead])
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_through_the_chosen_path_are_those_of_the_full_one(
    dimensions: int, component: Any, kernel: int
) -> None:
    x = draw(3, WIDTH, *SIZES[dimensions]).requires_grad_()
    head = made(component, SIZES[dimensions], layers=[Unit(width=5, upsample=2)], kernel=kernel)
    full, chosen = head(x, 1)[torch.arange(3), CODES], head.choose(x, 1, CODES)
    close(chosen, full)
    weights, leaves = draw(*full.shape, seed=1), [x, *head.parameters()]
    for one, other in zip(*(torch.autograd.grad(y, leaves, weights) for y in (chosen, full)), strict=True):
        close(one, other)


@pytest.mark.parametrize("component", [SubpixelHead, LowRankHead])
def test_a_kernel_or_a_layer_that_does_not_fit_is_refused(component: Any) -> None:
    with pytest.raises(ShapeError, match="kernel 2 is even"):
        made(component, (4, 3), kernel=2)
    with pytest.raises(ShapeError, match="layer 0: kernel 4 is even"):
        made(component, (4, 3), layers=[Unit(width=5, kernel=4)])


def test_the_subpixel_head_refuses_vectors() -> None:
    with pytest.raises(ShapeError, match=r"not on vectors\. Use a `conv` head"):
        made(SubpixelHead, ())
