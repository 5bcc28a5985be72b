"""A small classifier of images, and how any classifier is trained: for guides, probes and sample quality."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.process import generator

WIDTH = 128
"""The features of `Classifier`."""
CLASSIFIER_BATCH = 100
CLASSIFIER_LR = 1e-3


class Classifier(nn.Module):
    """Two convolutions with stride 2, a hidden layer whose outputs are the features, and a linear layer.

    Shapes: images (n, c, h, w) in training units → features (n, 128) and logits (n, classes).
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        channels, height, width = shape
        coarse = -(-height // 4) * -(-width // 4)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * coarse, WIDTH), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.body(images))


def fit_classifier(model: nn.Module, inputs: Tensor, labels: Tensor, *, seed: int, epochs: int) -> None:
    """Train a classifier on inputs (n, …) and labels (n,), reshuffled in each epoch; the last batch may be smaller."""
    optimizer = torch.optim.Adam(model.parameters(), lr=CLASSIFIER_LR, fused=True)
    for epoch in range(epochs):
        order = torch.randperm(len(inputs), generator=generator(seed, "probe", "epoch", epoch))
        for some, aims in zip(
            inputs[order].split(CLASSIFIER_BATCH), labels[order].split(CLASSIFIER_BATCH), strict=True
        ):
            optimizer.zero_grad()
            F.cross_entropy(model(some), aims).backward()
            optimizer.step()
