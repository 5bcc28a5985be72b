"""Any feature extractor of timm, conditioned on the stage and made independent of the rest of the batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import gcd
from typing import Any

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from vqtk.errors import ShapeError, VqtkError, nearest
from vqtk.nn.stage import StageModule
from vqtk.nn.types import Count, Size
from vqtk.nn.unit import LayerUnit, Unit
from vqtk.registry import ConditionFactory, backbones

_KNOWN_TO_WORK = "resnet18, convnext_atto, efficientnet_b0 or vit_tiny_patch16_224"


@backbones.register("timm", example={"model": "test_resnet", "out_index": 0, "stride": 2, "width": 8}, dimensions=(2,))
class TimmBackbone(StageModule):
    """One feature level of a timm network, between two convolutions that are conditioned on the stage.

    `model` is the network's name in timm and `out_index` the feature level; later layers are not built. The features
    have the input's size divided by `stride`, rounded up: the input is resized bilinearly to the multiple of the
    level's reduction that gives this size. A 3×3 convolution and a condition compute the `channels` of the network's
    input. A 1×1 convolution, a condition and a ReLU follow it, with `width` channels, by default those of the level.

    Examples must not depend on one another, nor on chance. So every batch norm is replaced by a group norm with about
    eight channels in a group; with `pretrained` it is kept, with the statistics of its training. Dropout and drop path
    are off. `pretrained` downloads the weights of the model's default tag, or of the tag in its name.

    Shapes: input (n, in_width, h, w) → (n, width, h / stride, w / stride); 2 dimensions.
    Raises: VqtkError if timm has no such model, level or weights; ShapeError if the level is too fine for the stride.
    Source: Wightman 2019, PyTorch Image Models.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        *,
        model: str,
        out_index: int = 1,
        stride: Count = 4,
        channels: Count = 3,
        width: Count | None = None,
        pretrained: bool = False,
        condition: ConditionFactory,
    ):
        if len(size) != 2:
            raise ShapeError(f"timm's networks have 2 dimensions, and the input has size {size}. Use another backbone.")
        reduction = _reduction(model, out_index)
        if reduction < stride:
            raise ShapeError(
                f"level {out_index} of {model} divides the size by {reduction}, less than `stride` {stride}. Choose a "
                "later `out_index` or a smaller `stride`."
            )
        resized = tuple(-(-length // stride) * reduction for length in size)
        enter = LayerUnit(in_width, size, stages, Unit(channels, then=["condition"]), condition)
        network = _network(model, out_index, channels, resized, pretrained)
        with torch.no_grad():
            (features,) = network(torch.zeros(1, channels, *resized))
        level, reached = features.shape[1], tuple(features.shape[2:])
        leave = LayerUnit(level, reached, stages, Unit(width or level, kernel=1), condition)
        super().__init__(leave.width, leave.size)
        self.enter, self.resize, self.network, self.leave = enter, _Resize(size, resized), network, leave
        self.train()

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the first convolution, the network on the resized result, and the last convolution."""
        (features,) = self.network(self.resize(self.enter(features, stage)))
        return self.leave(features, stage)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode; remaining batch norms stay in evaluation mode, with their stored statistics."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


class _Resize(nn.Module):
    """Bilinear resizing as two matrix products, whose gradient is deterministic on every device."""

    def __init__(self, size: Size, resized: Size):
        super().__init__()
        for axis, (length, new) in zip(("rows", "columns"), zip(size, resized, strict=True), strict=True):
            matrix = None if length == new else F.interpolate(torch.eye(length)[None], new, mode="linear")[0]
            self.register_buffer(axis, matrix, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Resize (n, c, *size) → (n, c, *resized)."""
        if self.rows is not None:
            features = einsum("nchw,hr->ncrw", features, self.rows)
        return features if self.columns is None else einsum("nchw,wr->nchr", features, self.columns)


@cache
def _reduction(model: str, out_index: int) -> int:
    """Return the factor by which a feature level divides the size."""
    import timm

    if not timm.is_model(model):
        advice = nearest(model, timm.list_models())
        raise VqtkError(f"timm {timm.__version__} has no model {model!r}. {advice}`timm.list_models()` lists them all.")
    try:
        with torch.device("meta"):
            return _create(model, out_index).feature_info.reduction()[0]
    except AssertionError as error:
        raise VqtkError(f"{model} has no level {out_index}: {error}. Choose another `out_index`.") from None
    except (TypeError, RuntimeError, AttributeError) as error:
        raise VqtkError(
            f"timm has no feature levels for {model} ({type(error).__name__}: {error}). Use a model that has them, "
            f"such as {_KNOWN_TO_WORK}."
        ) from None


def _network(model: str, out_index: int, channels: int, size: Size, pretrained: bool) -> nn.Module:
    """Return the deterministic network up to a level; on the device `meta` no weights are downloaded."""
    import timm
    from timm.layers import DropPath

    config = timm.get_pretrained_cfg(model)
    settings: dict[str, Any] = {"in_chans": channels}
    if config is not None and config.fixed_input_size:
        settings["img_size"] = size
    if pretrained and torch.get_default_device().type != "meta":
        network = _pretrained(model, out_index, settings)
    else:
        network = _create(model, out_index, **settings)
    if not pretrained:
        _replace_batch_norms(network)
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return network


def _pretrained(model: str, out_index: int, settings: dict[str, Any]) -> nn.Module:
    try:
        with _quiet_hub():
            return _create(model, out_index, pretrained=True, **settings)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise VqtkError(
            f"the weights of {model} cannot be downloaded ({type(error).__name__}: {reason[0]}). Set `pretrained: "
            "false`, or point HF_HOME at a cache that holds them."
        ) from error


def _create(model: str, out_index: int, **settings: Any) -> Any:
    """Return the network up to a feature level; it returns a list with this level alone, (n, c, h, w)."""
    import timm

    return timm.create_model(model, features_only=True, feature_cls="getter", out_indices=(out_index,), **settings)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence the hub's messages about each attempt; the result is reported once."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _replace_batch_norms(network: nn.Module) -> None:
    """Replace batch norms by group norms, followed by any dropout and activation that timm merged with them."""
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm):
                width = norm.num_features
                group = nn.GroupNorm(gcd(width, max(1, width // 8)), width, affine=norm.affine)
                joined = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
                setattr(parent, name, nn.Sequential(group, *joined) if joined else group)
