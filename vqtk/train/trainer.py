"""One update: the summed gradients of the recipe's batches, and a step of the optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.recipe.recipe import Recipe
from vqtk.train.schedule import learning_rate
from vqtk.train.seeds import generator


@dataclass
class Step:
    """What one update measured before it changed the weights: scalars of each batch, and the options' usage (s, k)."""

    choice: list[float]
    final: list[float]
    all: list[float]
    usage: Tensor
    lr: float

    def row(self) -> dict[str, float]:
        """Return the means over the update's batches, with the entropy and count of all its codes pooled."""
        counts = self.usage.sum(0)
        means = {key: sum(values) / len(values) for key, values in self.losses().items()}
        entropy = torch.special.entr(counts / counts.sum()).sum().item()
        return {**means, "entropy_pooled_nats": entropy, "used": int((counts > 0).sum()), "lr": self.lr}

    def losses(self) -> dict[str, list[float]]:
        """Return the three losses of each batch."""
        return {"choice": self.choice, "final": self.final, "all": self.all}


class Trainer:
    """A model, its optimiser, how many updates they have had, and how long these took over all sessions."""

    def __init__(self, recipe: Recipe, model: Any):
        self.recipe, self.model, self.settings = recipe, model, recipe.train
        self.optimizer = _optimizer(recipe, model)
        self.done = 0
        self.seconds = 0.0

    def update(self, batches: Sequence[Tensor], *, updates: int) -> Step:
        """Do one update of `updates` on batches (n, *data shape) in training units; gradients are summed over them."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, usages = [], []
        for index, batch in enumerate(batches):
            draws = self.model.draw(len(batch), generator(self.recipe.seed, "explore", self.done, index))
            measured, usage = self._backward(batch, draws)
            losses.append(measured)
            usages.append(usage)
        lr = learning_rate(self.settings.schedule, self.settings.optimizer.lr, self.done + 1, updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        total_usage = torch.stack(usages).sum(0)
        self.model.after_update(self.optimizer, total_usage)
        self.done += 1
        choice, final, all_options = torch.stack(losses, 1).tolist()
        return Step(choice, final, all_options, total_usage.cpu(), lr)

    def _backward(self, batch: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add a batch's gradient; return its choice, final and all, and its usage (s, k).

        It is done in pieces of `micro_batch` items, each weighted by its share of the batch.
        """
        settings = self.settings
        weights = dataclasses.asdict(settings.objective)
        losses, usages = [], []
        size = settings.micro_batch or len(batch)
        for start in range(0, len(batch), size):
            piece, drawn = batch[start : start + size], None if draws is None else draws[start : start + size]
            share = len(piece) / len(batch)
            with torch.autocast(piece.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                walk = self.model(piece, draws=drawn, checkpoint=settings.gradient_checkpointing)
                quantities = walk.quantities()
            (quantities.objective(**weights) * share).backward()
            losses.append(share * torch.stack([quantities.choice, quantities.final, quantities.all]).detach())
            usages.append(walk.usage())
        return torch.stack(losses).sum(0), torch.stack(usages).sum(0)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the weights."""
        return {"done": self.done, "seconds": self.seconds, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state back."""
        self.done, self.seconds = state["done"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])


def _optimizer(recipe: Recipe, model: Any) -> torch.optim.Optimizer:
    chosen = recipe.train.optimizer
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name]
    first, second = chosen.betas
    return kind(
        model.parameters(), lr=chosen.lr, betas=(first, second), eps=chosen.eps, weight_decay=chosen.weight_decay
    )
