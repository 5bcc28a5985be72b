"""The components that the suite holds to the contract: vqtk's own, and those of the examples in plugins/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.registry import REGISTRIES, Settings
from vqtk.testing import Check, contract, plugin_contract

PLUGINS = Path(__file__).parent.parent / "plugins"
VQDRAW: Settings = {"name": "vqdraw", **REGISTRIES["model"].get("vqdraw").example}
"""A small model for other tests."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "dataset celeba": {"size": 8},
    "dataset modelnet": {"size": 8, "variations": 1, "classes": ["bathtub", "chair"]},
    "dataset image_folder": {"path": "celeba/celeba/img_align_celeba", "size": 8},
    "dataset shards": {"path": "shards", "size": 8},
    "dataset text": {"path": "tinyshakespeare/input.txt", "length": 16},
    "dataset voxels": {"path": "modelnet/voxels32"},
}
"""Settings for what has to be told which files to read, and smaller ones for data that take long to read."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built_in(*kinds: str) -> list[str]:
    """The components of vqtk itself, as "kind name"; a plugin's that another test has loaded are not ours."""
    entries = [(kind, entry) for kind in kinds for entry in REGISTRIES[kind].entries().values()]
    return [f"{kind} {entry.name}" for kind, entry in entries if entry.component.__module__.startswith("vqtk.")]


def checks() -> list[Check]:
    """Every check of every component."""
    own = [(*which.split(), EXAMPLES.get(which)) for which in built_in(*REGISTRIES)]
    found = [check for kind, name, example in own for check in contract(kind, name, example=example)]
    sources = sorted(path for path in PLUGINS.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    return found + [check for path in sources for check in plugin_contract(path)]
