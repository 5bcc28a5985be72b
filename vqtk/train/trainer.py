"""One update: the summed gradients of the recipe's batches, and a step of the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vqtk.io.weights import load
from vqtk.recipe.recipe import Recipe
from vqtk.train.schedule import learning_rate
from vqtk.train.seeds import generator


@dataclass
class Step:
    """What one update measured before it changed the weights: the objective's terms of each batch, and usage (s, k)."""

    terms: dict[str, list[float]]
    usage: Tensor
    lr: float

    def row(self) -> dict[str, float]:
        """Return the means over the update's batches, with the entropy and count of all its codes pooled."""
        counts = self.usage.sum(0)
        means = {key: sum(values) / len(values) for key, values in self.terms.items()}
        entropy = torch.special.entr(counts / counts.sum()).sum().item()
        return {**means, "entropy_pooled_nats": entropy, "used": int((counts > 0).sum()), "lr": self.lr}


class Trainer:
    """A model, its objective and optimiser, how many updates they have had, and how long these took so far.

    Raises: RecipeError if model and objective do not fit.
    """

    def __init__(self, recipe: Recipe, model: Any):
        self.recipe, self.model, self.settings = recipe, model, recipe.train
        self.objective = recipe.train.objective(model, load)
        self.optimizer = _optimizer(recipe, model)
        self.done = 0
        self.seconds = 0.0

    def update(self, batches: Sequence[Tensor], *, updates: int) -> Step:
        """Do one update of `updates` on batches (n, *data shape) in training units; gradients are summed over them."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, list[Tensor]] = {}
        usages = []
        for index, batch in enumerate(batches):
            draws = self.objective.draw(
                len(batch), generator(self.recipe.seed, "explore", self.done, index), progress=self.done / updates
            )
            measured, usage = self._backward(batch, draws)
            for key, value in measured.items():
                terms.setdefault(key, []).append(value)
            usages.append(usage)
        lr = learning_rate(self.settings.schedule, self.settings.optimizer.lr, self.done + 1, updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        total_usage = torch.stack(usages).sum(0)
        self.model.after_update(self.optimizer, total_usage)
        self.done += 1
        values = torch.stack([torch.stack(measured) for measured in terms.values()]).tolist()
        return Step(dict(zip(terms, values, strict=True)), total_usage.cpu(), lr)

    def _backward(self, batch: Tensor, draws: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """Add a batch's gradient; return the objective's terms, and usage (s, k).

        It is done in pieces of `micro_batch` items, each weighted by its share of the batch.
        """
        settings = self.settings
        terms: dict[str, Tensor] = {}
        usages = []
        size = settings.micro_batch or len(batch)
        for start in range(0, len(batch), size):
            piece, drawn = batch[start : start + size], None if draws is None else draws[start : start + size]
            share = len(piece) / len(batch)
            with torch.autocast(piece.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                passed = self.objective(piece, draws=drawn, checkpoint=settings.gradient_checkpointing)
            (passed.loss * share).backward()
            for key, value in passed.terms.items():
                terms[key] = terms.get(key, 0) + share * value.detach()
            usages.append(passed.usage)
        return terms, torch.stack(usages).sum(0)

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
