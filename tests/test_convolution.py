"""Convolutions in one, two and three dimensions, against torch's own of one item at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from vqtk.errors import ShapeError
from vqtk.nn.convolution import chosen_convolution, convolution, upsampling

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (7,), 2: (6, 5), 3: (4, 3, 6)}
KERNELS = [
    *((dimensions, (k,) * dimensions) for dimensions, k in itertools.product(SIZES, (1, 3, 5))),
    *((2, kernel) for kernel in ((1, 3), (5, 1), (3, 5))),
    *((3, kernel) for kernel in ((1, 1, 3), (3, 1, 1), (1, 5, 3), (5, 3, 1))),
]


def draw(*shape: int, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def drawn(size: tuple[int, ...], kernel: tuple[int, ...], channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of 3 items, and of each item the filters and biases."""
    return draw(3, 4, *size, seed=0), draw(3, channels, 4, *kernel, seed=1), draw(3, channels, seed=2)


def one_by_one(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by torch's convolution, item by item."""
    kernel = weight.shape[3:]
    convolve, padding = CONVOLVE[len(kernel)], tuple(k // 2 for k in kernel)
    items = zip(features, weight, bias, strict=True)
    return torch.stack([convolve(f[None], w, b, padding=padding)[0] for f, w, b in items])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dimensions", "kernel"), KERNELS, ids=lambda value: str(value))
def test_chosen_convolution_equals_torchs_item_by_item(dimensions: int, kernel: tuple[int, ...], channels: int) -> None:
    given = drawn(SIZES[dimensions], kernel, channels)
    actual, expected = chosen_convolution(*given), one_by_one(*given)
    assert actual.shape == (3, channels, *SIZES[dimensions])
    assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    weights = draw(*expected.shape, seed=3).detach()
    gradients = [torch.autograd.grad(result, given, weights) for result in (actual, expected)]
    assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dimensions", SIZES)
@pytest.mark.parametrize("length", [1, 2])
def test_chosen_convolution_works_where_the_kernel_is_wider_than_the_features(dimensions: int, length: int) -> None:
    given = drawn((length,) * dimensions, (5,) * dimensions, 2)
    assert_close(chosen_convolution(*given), one_by_one(*given), rtol=1e-9, atol=1e-12)


def test_chosen_convolution_takes_filters_and_features_that_are_not_contiguous() -> None:
    features, weight, bias = drawn((6, 5), (3, 3), 2)
    given = features.transpose(2, 3), weight.flip(0).transpose(3, 4), bias.expand(3, 2)
    assert_close(chosen_convolution(*given), one_by_one(*given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dimensions", SIZES)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (1, 2, 1), (3, 1, 4), (3, 3, 2)])
def test_a_convolution_yields_the_size_it_says(dimensions: int, kernel: int, stride: int, dilation: int) -> None:
    for size in (SIZES[dimensions], (8,) * dimensions, (1,) * dimensions):
        module, yielded = convolution(2, 3, size, kernel=kernel, stride=stride, dilation=dilation)
        assert yielded == tuple(-(-length // stride) for length in size)
        assert module(torch.zeros(1, 2, *size)).shape == (1, 3, *yielded)


@pytest.mark.parametrize("dimensions", SIZES)
def test_upsampling_doubles_the_size(dimensions: int) -> None:
    size = SIZES[dimensions]
    module, yielded = upsampling(2, 3, size)
    assert yielded == tuple(2 * length for length in size)
    assert module(torch.zeros(1, 2, *size)).shape == (1, 3, *yielded)


def test_an_even_kernel_and_four_dimensions_are_refused() -> None:
    with pytest.raises(ShapeError, match="kernel 4 is even"):
        convolution(2, 3, (8, 8), kernel=4)
    with pytest.raises(ShapeError, match="1, 2 or 3 dimensions, not 4"):
        convolution(2, 3, (8, 8, 8, 8), kernel=3)
    with pytest.raises(ShapeError, match="1, 2 or 3 dimensions, not 0"):
        upsampling(2, 3, ())
