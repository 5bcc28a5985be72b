"""Convolutions in one, two or three dimensions that keep, divide or double the size; linear maps for vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.errors import ShapeError
from vqtk.nn.types import Size

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def convolution(
    in_width: int, width: int, size: Size, *, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> tuple[Any, Size]:
    """Return a convolution padded to keep the size (divided by `stride`, rounded up), and the new size.

    For vectors, whose size is (), it is a linear map: they have one position, so `kernel` and `dilation` do nothing.

    Raises: ShapeError if the kernel is even, a vector is given a stride or groups, or the size has more than three
    dimensions.
    """
    if not size:
        if stride != 1:
            raise ShapeError(f"`stride: {stride}` divides a size, and vectors have none. Leave it out.")
        if groups != 1:
            raise ShapeError(
                "a convolution in groups works in 1, 2 or 3 dimensions, not on vectors. Use a `conv` block."
            )
        return nn.Linear(in_width, width), size
    if kernel % 2 == 0:
        raise ShapeError(
            f"kernel {kernel} is even: no padding keeps the size {size}. Use an odd kernel, or `upsample: 2`."
        )
    make = _CONVOLUTIONS[_dimensions(size) - 1]
    padding = dilation * (kernel - 1) // 2
    module = make(in_width, width, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return module, tuple(-(-length // stride) for length in size)


def upsampling(in_width: int, width: int, size: Size) -> tuple[Any, Size]:
    """Return the transposed convolution (kernel 4, stride 2, padding 1) that doubles the size, and the new size.

    Raises: ShapeError unless the size has one to three dimensions.
    """
    make = _TRANSPOSED[_dimensions(size) - 1]
    return make(in_width, width, 4, stride=2, padding=1), tuple(2 * length for length in size)


def applied_with(module: Any) -> tuple[Callable[..., Tensor], Size]:
    """Return a module as a function of (features, weight, bias), and the shape that scales its weight by channel."""
    spread = [1] * (module.weight.dim() - 1)
    if isinstance(module, nn.Linear):
        return F.linear, (-1, *spread)
    settings = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}
    dimensions = module.weight.dim() - 2
    if type(module) in _TRANSPOSED:
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return partial(transposed, output_padding=module.output_padding, **settings), (1, -1, *spread[1:])
    return partial((F.conv1d, F.conv2d, F.conv3d)[dimensions - 1], **settings), (-1, *spread)


def channels_last(model: nn.Module) -> None:
    """Give the filters of images the memory layout with innermost channels, and thereby all feature maps.

    Vector units, AMX and tensor cores multiply along channels; a feature map in the other layout is transposed before
    each convolution.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(memory_format=torch.channels_last)


def prefers_channels_last(model: nn.Module) -> bool:
    """Return whether innermost channels make a model faster in its own precision: float32 on a CPU."""
    weight = next(model.parameters())
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _dimensions(size: Size) -> int:
    if not 1 <= len(size) <= 3:
        raise ShapeError(f"features of size {size}: convolutions work in 1, 2 or 3 dimensions, not {len(size)}.")
    return len(size)


def chosen_convolution(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each example with its own filters, at stride 1, keeping the size.

    Decoding needs this: each example has chosen another option, and computing all options would take k times the work.
    One matrix product for each example computes the contribution of every tap, and a fold shifts and sums them. Since
    an option has few channels, this moves far less memory than unfolding the features.

    Arguments:
        features: (n, i, *size).
        weight: (n, c, i, *kernel) with odd kernels, or (n, m, c, i, *kernel) for m options; without a kernel for
            vectors, whose size is ().
        bias: (n, c), or (n, m, c).

    Shapes: → (n, c, *size), or (n, m, c, *size).
    """
    size = features.shape[2:]
    shape = (*bias.shape, *size)
    weight, bias = weight.flatten(1, bias.dim() - 1), bias.flatten(1)
    kernel = weight.shape[3:]
    if not size:
        return torch.baddbmm(bias[:, :, None], weight, features[:, :, None])[:, :, 0].reshape(shape)
    taps = torch.bmm(rearrange(weight.flatten(3), "n c i t -> n (c t) i"), rearrange(features, "n i ... -> n i (...)"))
    channels = weight.shape[1]
    taps = taps.reshape(taps.shape[0], channels, *kernel, *size)
    offset = bias.reshape(*bias.shape, *[1] * len(size))
    if max(kernel) == 1:
        return (taps.reshape(taps.shape[0], channels, *size) + offset).reshape(shape)
    if len(size) == 3:
        taps = _sum_depth_taps(taps, kernel[0])
    rows, columns = (1, *size)[-2:]
    taps = taps.reshape(taps.shape[0], -1, rows * columns)
    # A convolution layer reads at +offset, but folding writes at +offset: so the taps are flipped.
    window = (1, *kernel)[-2:]
    taps = rearrange(taps, "n (m t) p -> n m t p", t=window[0] * window[1]).flip(2)
    summed = F.fold(
        rearrange(taps, "n m t p -> n (m t) p"), (rows, columns), window, padding=tuple(k // 2 for k in window)
    )
    return (summed.reshape(taps.shape[0], channels, *size) + offset).reshape(shape)


def _sum_depth_taps(taps: Tensor, kernel: int) -> Tensor:
    """Sum over the taps of the depth axis: (n, c, kd, kh, kw, d, h, w) → (n, c, d, kh, kw, h, w)."""
    depth, half = taps.shape[5], kernel // 2
    padded = F.pad(taps, (0, 0, 0, 0, half, half))
    shifted = [padded[:, :, tap, :, :, tap : tap + depth] for tap in range(kernel)]
    return rearrange(torch.stack(shifted).sum(0), "n c kh kw d h w -> n c d kh kw h w")
