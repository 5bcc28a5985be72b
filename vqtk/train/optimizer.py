"""Optimisers, in the form that updates many parameters at once and can be captured in a graph."""

from __future__ import annotations

import torch
from torch import nn

from vqtk.recipe.recipe import Optimizer


def make_optimizer(chosen: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe chooses, for all of a model's parameters.

    On CUDA the learning rate and the count of steps are tensors on the device, so that a captured step reads them.
    """
    parameters = list(model.parameters())
    on_cuda = parameters[0].device.type == "cuda"
    first, second = chosen.betas
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name](
        parameters,
        lr=torch.tensor(chosen.lr, device=parameters[0].device) if on_cuda else chosen.lr,
        betas=(first, second),
        eps=chosen.eps,
        weight_decay=chosen.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
        capturable=on_cuda,
    )


def restore(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Take back a state, with the form of the optimiser that takes it: it may have been saved on another device."""
    own = [{key: group[key] for key in ("lr", "fused", "capturable")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, form in zip(optimizer.param_groups, own, strict=True):
        group.update(form)
