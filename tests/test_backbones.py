"""Backbones: patches, U-Nets and the networks of timm, each against the same thing said another way."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from vqtk.backbones.conv import ConvBackbone
from vqtk.backbones.patch import PatchBackbone
from vqtk.backbones.timm import TimmBackbone, _Resize
from vqtk.backbones.unet import UNet
from vqtk.blocks.conv import ConvBlock
from vqtk.conditions.none import NoCondition
from vqtk.conditions.scale import Scale
from vqtk.errors import ShapeError, VqtkError
from vqtk.heads.conv import ConvHead
from vqtk.nn.unit import Unit
from vqtk.refiners.composed import Composed

SIZES = [(13,), (7, 10), (5, 3, 6)]
STAGES, OPTIONS = 3, 4
TINY = {"model": "test_resnet", "out_index": 0, "stride": 2, "condition": Scale}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(component: Any, size: tuple[int, ...], **settings: Any) -> Any:
    torch.manual_seed(0)
    return component(2, size, STAGES, **settings)


def composed(size: tuple[int, ...], backbone: Any, *, blocks: Any = None) -> Any:
    """A refiner whose head keeps the size of what it receives."""
    torch.manual_seed(0)
    blocks = [partial(ConvBlock, width=8, condition=Scale)] if blocks is None else blocks
    head = partial(ConvHead, condition=Scale)
    return Composed(2, size, STAGES, OPTIONS, 2, backbone=backbone, blocks=blocks, head=head)


def test_a_patch_is_mapped_by_a_matrix_and_gets_its_position() -> None:
    module, x = made(PatchBackbone, (4, 6), patch=2, width=5, condition=Scale), draw(3, 2, 4, 6)
    patches = rearrange(x, "n c (h p) (w q) -> n h w (c p q)", p=2, q=2)
    mapped = einsum(patches, module.embed.weight.flatten(1), "n h w i, o i -> n o h w")
    conditioned = (mapped + module.embed.bias[:, None, None]) * module.then.layers[0].module.scales[1][:, None, None]
    assert_close(module(x, 1), conditioned + module.then.layers[1].module.table)
    assert (module.width, module.size) == (5, (2, 3))


def test_patches_without_positions_are_all_treated_alike() -> None:
    module = made(PatchBackbone, (8,), patch=4, width=5, then=["condition"], condition=Scale)
    half = draw(1, 2, 4)
    one, other = module(torch.cat([half, half], 2), 0).unbind(2)
    assert_close(one, other)


def test_a_patch_that_does_not_fit_is_told_what_does() -> None:
    with pytest.raises(ShapeError, match=r"patches of 3 .* \(4, 6\)\. Set `patch` to one of 1, 2\."):
        made(PatchBackbone, (4, 6), patch=3, width=5, condition=Scale)


def test_a_u_net_of_two_levels_is_what_is_written_out_here() -> None:
    refiner = composed((5, 6), partial(UNet, widths=[3, 4], condition=NoCondition), blocks=[])
    down, up = refiner.backbone.levels, refiner.rise.levels
    (fine,), (coarse,), (joined,) = ([m for m in level.modules() if isinstance(m, nn.Conv2d)] for level in (*down, *up))
    x = draw(2, 2, 5, 6)
    skip = F.relu(F.conv2d(x, fine.weight, fine.bias, padding=1))
    bottom = F.relu(F.conv2d(skip, coarse.weight, coarse.bias, padding=1, stride=2))
    # The nearest of 3 rows to each of 5 are 0 0 1 1 2.
    enlarged = bottom.repeat_interleave(2, 2)[:, :, [0, 1, 2, 3, 5]].repeat_interleave(2, 3)
    assert bottom.shape == (2, 4, 3, 3)
    features = F.relu(F.conv2d(torch.cat([enlarged, skip], 1), joined.weight, joined.bias, padding=1))
    expected = refiner.head(features, 0) * refiner.output_scale
    assert_close(refiner.propose(x, 0, None)[0], expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_u_net_returns_to_the_size_of_its_first_level(size: tuple[int, ...], stride: int) -> None:
    unet = partial(UNet, widths=[4, 6, 8], stride=stride, depth=2, condition=Scale)
    refiner, x = composed(size, unet), draw(3, 2, *size)
    assert refiner.size == tuple(-(-length // stride) for length in size)
    deltas = refiner.propose(x, 1, None)[0]
    assert deltas.shape == (3, OPTIONS, 2, *refiner.size)
    codes = torch.tensor([2, 0, 3])
    assert_close(refiner.choose(x, 1, None, codes)[0], deltas[torch.arange(3), codes])
    deltas.square().sum().backward()
    reached = {name.split(".")[0] for name, p in refiner.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"output_scale", "backbone", "blocks", "rise", "head"}


def test_the_blocks_of_a_u_net_may_change_width_and_size() -> None:
    blocks = [partial(ConvBlock, width=5, stride=2, condition=Scale)]
    refiner = composed((13,), partial(UNet, widths=[4, 8], condition=Scale), blocks=blocks)
    assert refiner.propose(draw(2, 2, 13), 0, None)[0].shape == (2, OPTIONS, 2, 13)


def test_a_u_net_of_one_level_or_of_vectors_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least two levels"):
        made(UNet, (8,), widths=[4], condition=Scale)
    with pytest.raises(ShapeError, match="vectors have none"):
        made(UNet, (), widths=[4, 4], condition=Scale)


def test_a_backbone_without_skips_is_followed_by_the_blocks_and_the_head_alone() -> None:
    refiner, x = composed((6, 6), partial(ConvBackbone, layers=[Unit(8)], condition=Scale)), draw(2, 2, 6, 6)
    plain = refiner.head(refiner.blocks(refiner.backbone(x, 1), 1), 1) * refiner.output_scale
    torch.testing.assert_close(refiner.propose(x, 1, None)[0], plain)
    assert {name.split(".")[0] for name in refiner.state_dict()} == {"output_scale", "backbone", "blocks", "head"}


@pytest.mark.parametrize(
    ("model", "out_index", "width"),
    [("resnet18", 1, 64), ("convnext_atto", 1, 80), ("efficientnet_b0", 2, 40), ("vit_tiny_patch16_224", 0, 192)],
)
def test_the_networks_of_timm_yield_a_quarter_of_a_digits_size(model: str, out_index: int, width: int) -> None:
    with torch.device("meta"):
        module = made(TimmBackbone, (28, 28), model=model, out_index=out_index, condition=Scale)
        yielded = module(torch.zeros(3, 2, 28, 28), 0)
    assert (module.width, module.size) == (width, (7, 7))
    assert yielded.shape == (3, width, 7, 7)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_a_network_of_timm_treats_each_item_alone_and_always_the_same(model: str) -> None:
    module = made(TimmBackbone, (9, 6), model=model, out_index=1, channels=2, width=8, condition=Scale).double()
    x, target = draw(3, 2, 9, 6).double(), draw(3, 8, 3, 2).double()
    together = module(x, 1)
    (together * target).sum().backward()
    assert torch.equal(module(x, 1), together)
    assert torch.equal(module.eval()(x, 1), together)
    assert_close(torch.cat([module(item[None], 1) for item in x]), together, rtol=1e-9, atol=1e-11)
    assert not torch.equal(module(x, 2), together)
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_dropout_and_drop_path_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm  # Here, because importing it takes seconds, in every process that collects tests.

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", partial(create, drop_path_rate=0.5, proj_drop_rate=0.5))
    settings = {"model": "test_vit", "out_index": 1, "stride": 8, "condition": Scale}
    module, x = made(TimmBackbone, (16, 16), **settings), draw(2, 2, 16, 16)
    assert torch.equal(module(x, 0), module(x, 0))
    monkeypatch.setattr(timm, "create_model", create)
    assert torch.equal(made(TimmBackbone, (16, 16), **settings)(x, 0), module(x, 0))


def test_resizing_is_bilinear() -> None:
    x = draw(2, 3, 7, 10)
    for resized in [(28, 40), (7, 21), (14, 10)]:
        assert_close(_Resize((7, 10), resized)(x), F.interpolate(x, resized, mode="bilinear"))
    assert _Resize((7, 10), (7, 10))(x) is x


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "resnet19"}, r"has no model 'resnet19'\. Did you mean 'resnet18'\?"),
        ({"model": "test_resnet", "out_index": 9}, r"no level 9: .*\(0 to 4\)\. Choose another `out_index`"),
        ({"model": "hardcorenas_a"}, "no feature levels for hardcorenas_a .* such as resnet18"),
        ({"model": "test_resnet", "out_index": 0}, "divides the size by 2, less than `stride` 4"),
    ],
)
def test_a_network_of_timm_that_cannot_be_had_is_told_what_can(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(VqtkError, match=told):
        made(TimmBackbone, (8, 8), condition=Scale, **settings)


def test_a_network_of_timm_is_refused_outside_two_dimensions() -> None:
    with pytest.raises(ShapeError, match="2 dimensions, and the input has size"):
        made(TimmBackbone, (8,), **TINY)


def test_without_the_hub_there_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model

    def offline(*names: str, pretrained: bool = False, **settings: Any) -> Any:
        if pretrained:
            raise OSError("name not known\nand much more")
        return create(*names, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        VqtkError, match=r"cannot be downloaded \(OSError: name not known\)\. Set `pretrained: false`, or"
    ):
        made(TimmBackbone, (8, 8), pretrained=True, **TINY)
    with torch.device("meta"):
        made(TimmBackbone, (8, 8), pretrained=True, **TINY)


def test_pretrained_batch_norms_keep_to_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, pretrained=False, **settings: create(*names, **settings))
    module, x = made(TimmBackbone, (8, 8), pretrained=True, **TINY).train(), draw(3, 2, 8, 8)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [value.clone() for norm in norms for value in (norm.running_mean, norm.running_var)]
    together = module(x, 0)
    together.sum().backward()
    assert norms
    assert all(norm.weight.grad.any() for norm in norms)
    assert_close([value for norm in norms for value in (norm.running_mean, norm.running_var)], before, rtol=0, atol=0)
    assert_close(torch.cat([module(item[None], 0) for item in x]), together)
