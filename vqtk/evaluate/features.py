"""Features in which images are compared: those of Inception, or of a small classifier trained on the data's labels."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.datasets import Split
from vqtk.evaluate.measure import Track
from vqtk.nn.types import DataSpec
from vqtk.train.loop import Order
from vqtk.train.seeds import generator

UPDATES = 1000
BATCH = 100
LR = 1e-3
WIDTH = 128
SEED = 0
"""The classifier's, whatever the run's: figures of all runs on the same data are distances in one space."""
PATIENCE_S = 10
"""Seconds to wait for a server."""


@dataclass(frozen=True)
class Features:
    """Images, uint8 (n, c, h, w), → features (n, d).

    `suffix` ends the names of figures in these features, `title` names their space in words; `test_accuracy` is the
    classifier's, None for Inception.
    """

    of: Callable[[Tensor], Tensor]
    kind: str
    title: str
    test_accuracy: float | None = None


def inception(device: torch.device) -> tuple[Features | None, str]:
    """Return the features of Inception v3 that FID is defined by; or None, and a line that says why not and what to do.

    Source: Heusel et al. 2017; the weights through torch-fidelity.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        return None, "The standard FID needs torch-fidelity, which is not installed: pip install 'vqtk[quality]'."
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)
    except (OSError, RuntimeError) as error:
        return None, f"The standard FID needs the weights of Inception, which could not be downloaded ({error})."
    finally:
        socket.setdefaulttimeout(patience)

    def features(images: Tensor) -> Tensor:
        return network(images.to(device).expand(-1, 3, -1, -1))[0]

    return Features(features, "inception", "Inception v3"), ""


class Classifier(nn.Module):
    """Two convolutions of stride 2, a hidden layer whose outputs are the features, and a linear layer.

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


def classifier_features(
    data: DataSpec, train: Split, test: Split, *, name: str, device: torch.device, track: Track
) -> Features:
    """Train a classifier on the data's own labels for a fixed number of updates; return its features.

    `name` is the data set's. Both splits have labels.
    """
    assert train.labels is not None
    assert test.labels is not None
    network = _trained(data, train, train.labels.cpu().long(), device=device, track=track)
    counted = torch.randperm(len(test), generator=generator(SEED, "classifier", "test"))[:10_000]
    with torch.no_grad():
        right = [
            (network(data.normalise(test[part].to(device))).argmax(1).cpu() == test.labels.cpu()[part]).double()
            for part in track(counted.split(BATCH), "its accuracy")
        ]

    def features(images: Tensor) -> Tensor:
        return network.body(data.normalise(images.to(device)))

    title = f"features of a classifier trained on {name}"
    return Features(features, "classifier", title, torch.cat(right).mean().item())


def _trained(data: DataSpec, train: Split, labels: Tensor, *, device: torch.device, track: Track) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(SEED, "classifier").initial_seed())
        network = Classifier(data.shape, int(labels.max()) + 1).to(device)
    optimizer, order = torch.optim.Adam(network.parameters(), lr=LR), Order(len(train), SEED)
    for update in track(range(UPDATES), "classifier for features"):
        indices = order(update * BATCH, BATCH)
        loss = F.cross_entropy(network(data.normalise(train[indices].to(device))), labels[indices].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()
