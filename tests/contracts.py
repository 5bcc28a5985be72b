"""Every built-in component, made as a recipe makes it, from one table of example settings."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn

from vqtk.errors import RecipeError
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_model
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import from_plain
from vqtk.recipe.schema import Scope, parse
from vqtk.recipe.validate import synthetic
from vqtk.registry import REGISTRIES

COARSER = [{"width": 6, "then": ["condition", "relu", "layer"]}, {"width": 8, "kernel": 5, "stride": 2}]
FINER = [{"width": 6, "upsample": 2, "then": ["condition", "relu", {"group": 2}, "positions"]}]
PARTS = {
    "backbone": {"name": "conv", "layers": COARSER},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": FINER},
}
VQDRAW = {"name": "vqdraw", "stages": 4, "options": 4, "segment": 2, "loss": "mse", "refiner": PARTS}

SETTINGS: dict[str, dict[str, Any]] = {
    "model vqdraw": VQDRAW,
    "model distilled": {"stages": 4, "options": 4, "loss": "mse", "width": 8},
    "refiner composed": PARTS,
    "backbone conv": {"layers": COARSER},
    "block conv": {"width": 8, "kernel": 5, "dilation": 2},
    "head conv": {"layers": FINER},
    "head conv_per_stage": {"layers": FINER, "kernel": 3},
    "selector epsilon": {"epsilon": 0.5},
}
"""Settings to test a component with; those that a recipe must give have to stand here.

In a model, a backbone halves the size of the features and yields 8 channels, and a head doubles their size.
"""

REFUSED: dict[str, set[int]] = {"loss categorical": {2, 3}}
"""The numbers of dimensions that a component does not work in."""

DATA: dict[str, dict[str, Any]] = {
    "loss categorical": {"name": "wikitext2", "length": 8, "vocabulary": 5},
    "loss bernoulli": {"name": "modelnet", "size": 4},
}
"""The data to try a component's model on, where faces will not do."""

SIZES = {1: (8,), 2: (4, 8), 3: (4, 2, 8)}
STAGES, OPTIONS = 3, 4


def built_in(*kinds: str) -> list[str]:
    """The components of vqtk itself, as "kind name"; a plugin's that another test has loaded are not ours."""
    entries = [(kind, entry) for kind in kinds for entry in REGISTRIES[kind].entries().values()]
    return [f"{kind} {entry.name}" for kind, entry in entries if entry.component.__module__.startswith("vqtk.")]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(which: str, *supplied: Any) -> Any:
    """A component, in float64 where it has parameters."""
    kind, name = which.split()
    problems = Problems()
    node = Node.of({"name": name, **SETTINGS.get(which, {})}, "SETTINGS")
    chosen = parse(node, Annotated[Any, REGISTRIES[kind]], which, Scope(problems))
    if problems.found:
        pytest.fail(f"{which} cannot be tested: write settings for it into tests/contracts.py. {problems.found}")
    torch.manual_seed(0)
    made = chosen(*supplied)
    return made.double() if isinstance(made, nn.Module) else made


def make_map(which: str, dimensions: int) -> Any:
    """A backbone, block, condition, head or refiner for features of 8 channels."""
    features = (8, SIZES[dimensions], STAGES)
    supplied = {"condition": (8, STAGES), "head": (*features, OPTIONS, 2), "refiner": (*features, OPTIONS, 2)}
    try:
        return make(which, *supplied.get(which.split()[0], features))
    except RecipeError as error:
        pytest.fail(f"If {which} does not work in {dimensions} dimensions, say so in REFUSED: {error}")


def outputs(module: Any, features: Tensor) -> Tensor:
    """What a map yields at all stages (n, stages, …); a refiner's state advances along option 0."""
    if not hasattr(module, "propose"):
        return torch.stack([module(features, stage) for stage in range(STAGES)], 1)
    after, state = [], module.initial_state(features)
    for stage in range(STAGES):
        deltas, carry = module.propose(features, stage, state)
        state = module.advance(carry, torch.zeros(len(features), dtype=torch.int64), features)
        after.append(deltas)
    return torch.stack(after, 1)


def make_loss(which: str, dimensions: int) -> tuple[Any, Tensor, Tensor, Tensor]:
    """A loss, with 3 reconstructions, 4 deltas of each as a network yields them, and targets."""
    text = DATA.get(which, {}).get("name") == "wikitext2"
    data = DataSpec("text", (4,), classes=5) if text else DataSpec("image", (2, *(3, 2, 2)[:dimensions]))
    loss = make(which, data)
    deltas = loss.from_channels(draw(3, OPTIONS, loss.out_channels, *loss.size, seed=1))
    target = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1], [2, 0, 3, 4]]) if text else draw(3, *data.shape, seed=2)
    return loss, draw(3, *loss.shape), deltas, target


def make_model(which: str) -> tuple[Any, Any, Tensor]:
    """The model of a recipe in which the component stands, the recipe, and targets."""
    kind, name = which.split()
    spec = {"name": name, **SETTINGS.get(which, {})}
    if kind == "model":
        model = spec
    elif kind in ("backbone", "head"):
        model = {**VQDRAW, "refiner": {**PARTS, kind: spec}}
    elif kind == "block":
        model = {**VQDRAW, "refiner": {**PARTS, "blocks": [spec]}}
    else:
        model = {**VQDRAW, kind: spec}
    data = DATA.get(which, {"name": "celeba", "size": 8})
    recipe = from_plain({"name": "contract", "data": data, "model": model, "train": {"updates": 1}}, "SETTINGS")
    built = build_model(recipe, dtype=torch.float64)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.3 * draw(*parameter.shape)
    target = synthetic(built.data, 3)
    return built, recipe, target.double() if target.is_floating_point() else target
