"""The model equals a textbook implementation of its algorithm, in values and in gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import pooled_shares
from tests.textbook import Textbook
from vqtk.heads import Factors
from vqtk.losses.mse import MSE
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.refiners._base import Refiner
from vqtk.searches.greedy import Greedy
from vqtk.selectors.argmin import Argmin

RECIPE = """\
name: tiny
data: {name: celeba, size: 8}
model:
  stages: 3
  options: 3
  loss: mse
  condition: scale
  refiner:
    backbone: {name: conv, layers: [{width: 4, stride: 2, then: [condition, relu, {group: 2}]}]}
    blocks: [{name: conv, width: 5}, {name: bottleneck, groups: layer, dilation: 2}]
    head: {name: conv, layers: [{width: 4, upsample: 2}]}
train: {updates: 1}
"""

PER_STAGE = "model.refiner.head={name: conv_per_stage, layers: [{width: 4, upsample: 2}], kernel: 3}"
TEXT = ["data={name: wikitext2, length: 8, vocabulary: 5}", "model.loss=categorical"]
VOXELS = ["data={name: modelnet, size: 4}", "model.loss=bernoulli"]
SUBPIXEL = "model.refiner.head={name: subpixel, layers: [{width: 4}], factor: 2, kernel: 1}"
LOW_RANK = "model.refiner.head={name: lowrank, layers: [{width: 4, upsample: 2}], rank: 2}"
DECAY, SEGMENTS = "model.grad_decay=0.3", "model.segment=2"
VARIANTS = {
    "mse": [],
    "mse in segments": [SEGMENTS],
    "mse, a refiner for each stage": ["model.segment=1"],
    "mse, one active segment": [SEGMENTS, "model.active_stages=2"],
    "mse, active stages": ["model.active_stages=2"],
    "mse, film": ["model.condition=film"],
    "mse, no condition": ["model.condition=none"],
    "mse, head per stage": [SEGMENTS, PER_STAGE],
    "mse, gradient decay": [DECAY],
    "mse, no gradient between stages": ["model.grad_decay=1.0"],
    "mse, digits": ["data={name: mnist}"],
    "mse, by factors of filters": [SUBPIXEL],
    "mse, by factors of maps, decay": [LOW_RANK, DECAY],
    "gaussian": ["model.loss=gaussian"],
    "gaussian, decay, segments": ["model.loss=gaussian", DECAY, SEGMENTS],
    "categorical": TEXT,
    "categorical, decay, head per stage": [*TEXT, DECAY, PER_STAGE],
    "bernoulli": ["data={name: modelnet, size: 8}", "model.loss=bernoulli"],
    "bernoulli, film, segments": [*VOXELS, "model.condition=film", SEGMENTS],
}


class Remembering(Refiner):
    """A refiner with a state: a running sum of what it was shown, mixed with the codes."""

    def __init__(self, in_width: int, size: tuple[int, ...], stages: int, options: int, out_channels: int):
        super().__init__()
        self.options = options
        self.start = torch.nn.Parameter(torch.randn(in_width))
        self.mix = torch.nn.Linear(2 * in_width, options * out_channels)
        self.embed = torch.nn.Parameter(torch.randn(stages, options, in_width))
        self.keep = torch.nn.Parameter(torch.randn(()))

    def initial_state(self, like: Tensor) -> Tensor:
        return self.start.expand(len(like), -1)

    def propose(self, x: Tensor, stage: int, state: Tensor) -> tuple[Tensor, Any]:
        memory = state[:, :, None, None].expand_as(x)
        deltas = self.mix(torch.cat([x.tanh(), memory.tanh()], 1).movedim(1, -1)).movedim(-1, 1)
        return deltas.unflatten(1, (self.options, -1)), (state, stage)

    def advance(self, carry: Any, codes: Tensor, x: Tensor) -> Tensor:
        state, stage = carry
        return self.keep * state + self.embed[stage, codes] + x.mean((2, 3))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[*VARIANTS, "a refiner with a state"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if "by factors" in request.param:  # They would not pay for so few options.
        monkeypatch.setattr(Factors, "pay", lambda *sizes: True)
    if request.param in VARIANTS:
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(RECIPE)
        built = build_model(load_recipe(recipe, VARIANTS[request.param]), dtype=torch.float64)
    else:
        parts: dict[str, Any] = {"loss": MSE, "condition": None, "selector": Argmin, "search": Greedy}
        sizes: dict[str, Any] = {"stages": 3, "options": 3, "segment": 2, "grad_decay": 0.3}
        built = VQDraw(DataSpec("image", (2, 3, 4)), refiner=Remembering, **sizes, **parts)
    return randomised(built)


def randomised(model: Any) -> Any:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=g)
    return model


def targets(data: DataSpec, n: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(2)
    if data.classes:
        return torch.randint(data.classes, (n, *data.shape), generator=g)
    values = torch.randn(n, *data.shape, generator=g)
    return (values > 0).double() if data.kind == "voxels" else values


def textbook(model: Any) -> Textbook:
    loss = type(model.loss).__name__.lower()
    return Textbook(list(model.refiners), model.bias, loss, model.stages, model.segment, model.grad_decay)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-9, atol=1e-12)


def random_codes(model: Any, n: int = 3) -> Tensor:
    return torch.randint(model.options, (n, model.stages), generator=torch.Generator().manual_seed(3))


def test_encoding_equals_the_textbook(model: Any) -> None:
    target = targets(model.data)
    expected, walk = textbook(model).encode(target), model.walk(target)
    close(walk.grid, expected.grid)
    assert torch.equal(walk.codes, expected.codes)
    assert torch.equal(model.encode(target), expected.codes)
    close(walk.reconstruction, expected.reconstruction)


def test_quantities_equal_the_textbook(model: Any) -> None:
    target = targets(model.data, n=5)
    expected, walk = textbook(model).encode(target), model(target)
    close(walk.choice, expected.choice())
    close(walk.all, expected.all())
    close(walk.final, expected.final())
    assert walk.best.flatten().tolist() == expected.best_codes()
    shares = pooled_shares(walk)
    assert torch.special.entr(shares).sum().item() == pytest.approx(expected.entropy(), rel=1e-9)
    assert (shares > 0).sum() == expected.used()


def test_every_prefix_decodes_as_in_the_textbook(model: Any) -> None:
    codes, book = random_codes(model), textbook(model)
    after = model.decode_stages(codes)
    for stages in range(1, model.stages + 1):
        expected = book.decode(codes[:, :stages])
        close(model.decode(codes[:, :stages]), expected)
        close(after[:, stages - 1], expected)


def test_the_gradient_of_the_chosen_options_alone_is_that_of_decoding_them(model: Any) -> None:
    target = targets(model.data)
    walk = model.walk(target, chosen_only=True)
    found = torch.autograd.grad(walk.choice + walk.final, [*model.parameters()], allow_unused=True)
    again = model.loss(model.along(walk.codes), target)
    expected = torch.autograd.grad(again.mean() + again[:, -1].mean(), [*model.parameters()], allow_unused=True)
    assert torch.equal(walk.codes, model.walk(target).codes)
    close(walk.all, model.walk(target).all)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            close(one, other)


@pytest.mark.parametrize(("explores", "checkpoint"), [(False, False), (True, False), (True, True)], ids=str)
def test_gradients_equal_the_textbook(model: Any, explores: bool, checkpoint: bool) -> None:
    target, path = targets(model.data), random_codes(model)
    stages = iter(path.unbind(1))
    if explores:
        model.selector = lambda grid, draws: next(stages)
    expected = textbook(model).encode(target, follow=path if explores else None)
    objective = expected.choice() + 0.01 * expected.all() + 0.1 * expected.final()
    wanted = torch.autograd.grad(objective, list(model.parameters()), allow_unused=True)

    walk = model(target, recompute=model.stages if checkpoint else 0)
    assert torch.equal(walk.codes, expected.codes)
    (walk.choice + 0.01 * walk.all + 0.1 * walk.final).backward()
    for (name, parameter), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            scale = gradient.abs().max().item()
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12 * scale, msg=name)


def test_gradients_of_a_decode_equal_the_textbook(model: Any) -> None:
    codes = random_codes(model)
    wanted = torch.autograd.grad(
        textbook(model).decode(codes).square().sum(), list(model.parameters()), allow_unused=True
    )
    model.decode(codes).square().sum().backward()
    for (name, parameter), gradient in zip(model.named_parameters(), wanted, strict=True):
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        given = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scale = expected.abs().max().item() + 1e-30
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-12 * scale, msg=name)
