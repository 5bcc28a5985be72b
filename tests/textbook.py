"""VQ-DRAW as a textbook would write it: one item, one stage, one option at a time.

Nothing of vqtk.models or vqtk.losses is used here; the network is asked for the deltas of one item.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal


def mse(x: Tensor, target: Tensor) -> Tensor:
    """Squared error per value."""
    return ((x - target) ** 2).mean()


def gaussian(x: Tensor, target: Tensor) -> Tensor:
    """Nats per value; x holds a mean and a log standard deviation per value, last."""
    return -Normal(x[..., 0], torch.exp(x[..., 1])).log_prob(target).mean()


def bernoulli(x: Tensor, target: Tensor) -> Tensor:
    """Nats per value; x holds logits."""
    return -Bernoulli(logits=x).log_prob(target).mean()


def categorical(x: Tensor, target: Tensor) -> Tensor:
    """Nats per token; x holds a logit per token and word, the words last."""
    return -Categorical(logits=x).log_prob(target).mean()


LOSSES = {"mse": mse, "gaussian": gaussian, "bernoulli": bernoulli, "categorical": categorical}


def seen(loss: str, x: Tensor) -> Tensor:
    """What the network is shown of a reconstruction: channels first."""
    if loss == "gaussian":
        means, deviations = x[..., 0], torch.exp(x[..., 1])
        return torch.cat([means, deviations])
    if loss == "categorical":
        vocabulary = x.shape[1]
        return (torch.softmax(x, 1) * math.sqrt(vocabulary)).T
    return x


def change(loss: str, delta: Tensor) -> Tensor:
    """What one option's output of the network, channels first, adds to a reconstruction."""
    if loss == "gaussian":
        means, log_deviations = delta[0::2], delta[1::2]
        return torch.stack([means, log_deviations], -1)
    if loss == "categorical":
        return delta.T
    return delta


@dataclass
class Result:
    """Of a batch: the grid (n, s, k), the codes followed (n, s), the reconstructions (n, *shape)."""

    grid: Tensor
    codes: Tensor
    reconstruction: Tensor

    def best_codes(self) -> list[int]:
        """The best option of each item and stage."""
        return [losses.index(min(losses)) for item in self.grid.tolist() for losses in item]

    def choice(self) -> Tensor:
        """The smallest loss of a stage, averaged over items and stages."""
        return torch.stack([min(losses) for item in self.grid for losses in item]).mean()

    def final(self) -> Tensor:
        """The smallest loss of the last stage, averaged over items."""
        return torch.stack([min(item[-1]) for item in self.grid]).mean()

    def all(self) -> Tensor:
        """Every option's loss, averaged."""
        return torch.stack([loss for item in self.grid for losses in item for loss in losses]).mean()

    def entropy(self) -> float:
        """The entropy in nats of the best codes, all stages pooled."""
        codes = self.best_codes()
        return -sum(count / len(codes) * math.log(count / len(codes)) for count in Counter(codes).values())

    def used(self) -> int:
        """How many options are the best one somewhere."""
        return len(set(self.best_codes()))


@dataclass
class Textbook:
    """The algorithm, for the networks and the bias of a model."""

    networks: list[Any]
    bias: Tensor
    loss: str
    stages: int
    segment: int
    grad_decay: float = 0.0

    def encode(self, targets: Tensor, *, follow: Tensor | None = None) -> Result:
        """Walk with each target; along the best options, or along the codes to follow (n, s)."""
        grids, codes, reconstructions = [], [], []
        for item, target in enumerate(targets):
            x, state = self._start()
            losses, path = [], []
            for stage in range(self.stages):
                x, state = self._enter(x, state)
                proposals, carry = self._propose(x, stage, state)
                row = [LOSSES[self.loss](proposal, target) for proposal in proposals]
                best = min(range(len(row)), key=lambda option: row[option].item())
                code = best if follow is None else int(follow[item, stage])
                x = proposals[code]
                state = self._advance(stage, carry, code, x)
                losses.append(torch.stack(row))
                path.append(code)
            grids.append(torch.stack(losses))
            codes.append(torch.tensor(path))
            reconstructions.append(x)
        return Result(torch.stack(grids), torch.stack(codes), torch.stack(reconstructions))

    def decode(self, codes: Tensor) -> Tensor:
        """The reconstructions of codes (n, s), of all stages or of the first ones."""
        reconstructions = []
        for code in codes.tolist():
            x, state = self._start()
            for stage, option in enumerate(code):
                x, state = self._enter(x, state)
                proposals, carry = self._propose(x, stage, state)
                x = proposals[option]
                state = self._advance(stage, carry, option, x)
            reconstructions.append(x)
        return torch.stack(reconstructions)

    def _start(self) -> tuple[Tensor, Any]:
        x = torch.zeros_like(self.bias[0])
        return x, self.networks[0].initial_state(seen(self.loss, x)[None])

    def _enter(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        g = self.grad_decay
        x = (1 - g) * x + g * x.detach()
        return x, None if state is None else (1 - g) * state + g * state.detach()

    def _propose(self, x: Tensor, stage: int, state: Tensor | None) -> tuple[list[Tensor], Any]:
        network = self.networks[stage // self.segment]
        deltas, carry = network.propose(seen(self.loss, x)[None], stage % self.segment, state)
        proposals = []
        for option, delta in enumerate(deltas[0]):
            proposal = x + change(self.loss, delta)
            if stage == 0:
                proposal = proposal + self.bias[option]
            proposals.append(proposal)
        return proposals, carry

    def _advance(self, stage: int, carry: Any, code: int, x: Tensor) -> Tensor | None:
        network = self.networks[stage // self.segment]
        return network.advance(carry, torch.tensor([code]), x[None])
