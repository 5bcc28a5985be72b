"""Walks over a split: distortion after every stage, and how the codes are used."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log2
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets._base import Split
from vqtk.train.seeds import generator


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split; losses in units of the model's loss, averaged over items.

    `distortion` (s,) is the smallest loss at each stage, `usage` (s, k) how often each option was chosen.
    """

    items: int
    distortion: list[float]
    all: float
    usage: Tensor
    options: int
    normalised: bool
    values: int

    def entropy_nats(self) -> list[float]:
        """Return the entropy of each stage's codes."""
        frequency = self.usage / self.usage.sum(1, keepdim=True)
        return torch.special.entr(frequency.double()).sum(1).tolist()

    def row(self) -> dict[str, Any]:
        """Return the training quantities."""
        counts = self.usage.sum(0).double()
        return {
            "choice": sum(self.distortion) / len(self.distortion),
            "final": self.distortion[-1],
            "all": self.all,
            "entropy_pooled_nats": torch.special.entr(counts / counts.sum()).sum().item(),
            "used": int((counts > 0).sum()),
        }

    def stages(self) -> list[dict[str, Any]]:
        """Return one row a stage: bits, distortion, entropy in nats, options used, and the bound where there is one."""
        rows = []
        for stage, (distortion, entropy) in enumerate(zip(self.distortion, self.entropy_nats(), strict=True)):
            row = {
                "stage": stage + 1,
                "bits": (stage + 1) * log2(self.options),
                "distortion": distortion,
                "entropy_nats": entropy,
                "used": int((self.usage[stage] > 0).sum()),
            }
            if self.normalised:
                row["bound_nats"] = distortion * self.values + (stage + 1) * log(self.options)
            rows.append(row)
        return rows


@torch.no_grad()
def evaluate(model: Any, split: Split, *, items: Tensor | None = None, batch: int = 100) -> Evaluation:
    """Encode the items (indices; all by default) greedily, `batch` at a time."""
    was_training = model.training
    model.eval()
    chosen = torch.arange(len(split)) if items is None else items
    device = model.bias.device
    distortion = torch.zeros(model.stages, dtype=torch.float64)
    usage = torch.zeros(model.stages, model.options, dtype=torch.int64)
    total = 0.0
    for part in chosen.split(batch):
        target = model.data.normalise(split.items[part.to(split.items.device)].to(device), model.bias.dtype)
        walk = model.walk(target)
        distortion += walk.grid.min(2).values.sum(0).double().cpu()
        total += walk.grid.mean((1, 2)).sum().item()
        usage += walk.usage().cpu()
    model.train(was_training)
    return Evaluation(
        items=len(chosen),
        distortion=(distortion / len(chosen)).tolist(),
        all=total / len(chosen),
        usage=usage,
        options=model.options,
        normalised=model.loss.normalised,
        values=target[0].numel(),
    )


def fixed_subset(split: Split, items: int, seed: int) -> Tensor:
    """Return the indices of a seeded subset of a split, in a seeded order; all of it if it is no larger."""
    return torch.randperm(len(split), generator=generator(seed, "evaluate"))[:items]
