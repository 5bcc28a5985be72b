"""The golden numbers of the original implementation, and the shipped recipes at their sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vqtk.io.original import load_original
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

CASES = {
    "mnist": ("mnist", []),
    "mnist_gaussian": ("mnist_gaussian", []),
    "svhn": ("svhn", ["model.segment=2"]),
    "cifar": ("cifar10", ["model.segment=2"]),
    "celeba": ("celeba", ["model.segment=2"]),
    "text": ("wikitext2", ["model.segment=2", "data.length=32", "data.vocabulary=20"]),
    "modelnet": ("modelnet", ["model.segment=2", "data.size=16"]),
}


def shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"../shared/{'/'.join(parts)} is missing: the original's numbers and data are not at hand")
    return path


@dataclass
class Case:
    numbers: dict[str, Any]
    tensors: dict[str, Tensor]
    recipe: str
    overrides: list[str]

    def model(self, *more: str, dtype: torch.dtype = torch.float64) -> Any:
        """The shipped recipe with overrides, and the golden state by import-original's mapping."""
        path = ROOT / "recipes" / f"{self.recipe}.yaml"
        model = build_model(load_recipe(path, [*self.overrides, *more]), dtype=dtype)
        load_original(model, self.state)
        return model

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The golden state, filled as its README says."""
        g = torch.Generator().manual_seed(self.numbers["seed"])
        state = {}
        for key, shape, total, absolute in self.numbers["state"]:
            if key in ("_stages", "_grad_decay"):
                state[key] = torch.tensor(self.numbers["stages"] if key == "_stages" else 0.0)
                continue
            z = torch.randn(shape, generator=g, dtype=torch.float32)
            if key.endswith("embeddings"):
                value = 1 + 0.2 * z
            elif z.dim() >= 2 and key != "bias":
                value = z / z[0].numel() ** 0.5
            elif key.endswith("output_scale"):
                value = 0.3 + 0.02 * z
            elif key.endswith(".weight"):
                value = 1 + 0.1 * z
            else:
                value = 0.05 * z
            assert value.sum().item() == pytest.approx(total, rel=1e-6, abs=2e-5), key
            assert value.abs().sum().item() == pytest.approx(absolute, rel=1e-6, abs=1e-6), key
            state[key] = value.double()
        return state


def case(name: str) -> Case:
    recipe, overrides = CASES[name]
    numbers = json.loads(shared("parity", f"{name}.json").read_text())
    sizes = [f"model.stages={numbers['stages']}", f"model.options={numbers['options']}"]
    return Case(numbers, load_file(shared("parity", f"{name}.safetensors")), recipe, [*overrides, *sizes])


def pooled_shares(walk: Any) -> Tensor:
    """How often each option is the best one, all stages pooled, as shares: (k,)."""
    counts = torch.bincount(walk.grid.argmin(2).flatten(), minlength=walk.grid.shape[2]).double()
    return counts / counts.sum()
