"""What a model costs: parameters per part, and floating-point operations an item."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vqtk.models import Model
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.validate import synthetic


def parameters_by_part(model: Model) -> dict[str, int]:
    """Return the parameters of each part of a model; those of the refiners are summed over segments."""
    parts: dict[str, int] = {}
    for name, value in model.named_parameters():
        part = re.sub(r"^refiners\.\d+\.", "", name).split(".")[0]
        parts[part] = parts.get(part, 0) + value.numel()
    return parts


def total_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def flops(recipe: Recipe) -> dict[str, int]:
    """Return the operations of encoding and of decoding one item: 2 for each multiply–add of a convolution or product.

    Counted on tensors without storage, so that the largest recipe takes no memory.
    """
    model = build_model(recipe, device="meta").eval().requires_grad_(False)
    with torch.no_grad():
        target = synthetic(model.data, 1).to("meta")
        codes = torch.zeros(1, model.stages, dtype=torch.int64, device="meta")
        return {
            "encode": _counted(lambda: model.encode(target)),
            "decode": _counted(lambda: model.decode(codes)),
        }


def _counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
