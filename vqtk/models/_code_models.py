"""Distributions over codes given features: autoregressive, or independent over the stages."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class CodeModel(nn.Module, ABC):
    """p(codes | features): features (n, width), codes (n, stages) in [0, options)."""

    @abstractmethod
    def logits(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return the logits of each stage (n, s, k), given the codes of the stages before it."""

    @abstractmethod
    def best(self, features: Tensor) -> Tensor:
        """Return codes (n, s), each the most likely given those before it."""

    def nats(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return the negative log-likelihood of each stage's code (n, s), in nats."""
        logits = self.logits(features, codes)
        return F.cross_entropy(rearrange(logits, "n s k -> n k s"), codes, reduction="none")


class Independent(CodeModel):
    """One linear output for all stages, which are independent given the features."""

    def __init__(self, width: int, stages: int, options: int):
        super().__init__()
        self.options = options
        self.output = nn.Linear(width, stages * options)

    def logits(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return the logits; the codes are ignored."""
        return rearrange(self.output(features), "n (s k) -> n s k", k=self.options)

    def best(self, features: Tensor) -> Tensor:
        """Return the most likely option of each stage."""
        return self.logits(features, features).argmax(2)


class Autoregressive(CodeModel):
    """A two-layer GRU over the embedded codes, to which the features are added; one output shared by the stages."""

    def __init__(self, width: int, stages: int, options: int):
        super().__init__()
        self.stages = stages
        self.gru = nn.GRU(width, width, num_layers=2, batch_first=True)
        self.embedding = nn.Embedding(options, width)
        self.initial = nn.Parameter(torch.randn(2, 1, width))
        self.output = nn.Linear(width, options)

    def logits(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return the logits; the first stage sees only the features."""
        before = F.pad(self.embedding(codes[:, :-1]), (0, 0, 1, 0))
        hidden, _ = self.gru(before + features[:, None], self._start(features))
        return self.output(hidden)

    def best(self, features: Tensor) -> Tensor:
        """Return codes chosen greedily, one stage after another."""
        state, entering, codes = self._start(features), features, []
        for _ in range(self.stages):
            hidden, state = self.gru(entering[:, None], state)
            codes.append(self.output(hidden[:, 0]).argmax(1))
            entering = features + self.embedding(codes[-1])
        return torch.stack(codes, 1)

    def _start(self, features: Tensor) -> Tensor:
        return self.initial.expand(-1, len(features), -1).contiguous()
