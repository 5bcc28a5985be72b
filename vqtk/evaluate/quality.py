"""The quality of samples: Fréchet distance and kernel distance between their features and those of data."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtk.datasets import Order, Split, Splits, batches_of
from vqtk.errors import DataError
from vqtk.evaluate.evaluation import Track, untracked
from vqtk.guides._classifier import CLASSIFIER_BATCH, CLASSIFIER_LR, Classifier
from vqtk.models import Model
from vqtk.nn.types import DataSpec
from vqtk.process import generator

MOST_ITEMS = 10_000
BATCH = 100


@dataclass(frozen=True)
class Quality:
    """Distances of samples from test data, and of train data for reference, in a space of features.

    `samples`, `train` and `test` are the numbers of images; `note` says why the features are not the standard ones.
    """

    features: Features
    frechet: float
    kid: float
    reference_frechet: float
    reference_kid: float
    samples: int
    train: int
    test: int
    note: str = ""

    @property
    def standard(self) -> bool:
        """Whether the features are those by which FID and KID are defined."""
        return self.features.kind == "inception"

    def plain(self) -> dict[str, Any]:
        """Return the metrics as JSON values, named `fid` and `kid` only if the features are the standard ones."""
        frechet, kid = ("fid", "kid") if self.standard else ("frechet_classifier", "kid_classifier")
        return {
            frechet: self.frechet,
            kid: self.kid,
            "reference": {frechet: self.reference_frechet, kid: self.reference_kid},
            "features": self.features.title + ("" if self.standard else " (NOT the standard FID)"),
            "classifier_test_accuracy": self.features.test_accuracy,
            "samples": self.samples,
            "train_items": self.train,
            "test_items": self.test,
            "note": self.note or None,
        }


@torch.no_grad()
def quality(model: Model, splits: Splits, *, items: Tensor, name: str, seed: int, track: Track = untracked) -> Quality:
    """Compare test examples (indices, at most 10,000) with as many samples, and with as many train examples.

    Samples decode the model's random codes and are rounded to 8 bits, like the data. `name` is that of the data set.

    Raises: DataError if the data are not images, or there are no features to compare them in.
    """
    if len(items) < 2:
        raise DataError("the quality of samples needs at least 2 test examples, got 1. Raise --items.")
    standard, note = features_at_hand(model.data, splits, name=name, device=model.device)
    with torch.enable_grad():
        space = standard or classifier_features(
            model.data, splits.train, splits.test, name=name, device=model.device, track=track
        )
    chosen = items[torch.randperm(len(items), generator=generator(seed, "quality", "test"))[:MOST_ITEMS]]
    others = torch.randperm(len(splits.train), generator=generator(seed, "quality", "train"))[: len(chosen)]
    codes = model.random_codes(len(chosen), generator=generator(seed, "quality", "samples"))
    test = _features_of(space, splits.test, chosen, track, "features of test examples")
    train = _features_of(space, splits.train, others, track, "features of train examples")
    parts = track(codes.split(BATCH), "features of samples")
    samples = torch.cat([space.of(_as_bytes(model, part)).double().cpu() for part in parts])
    return Quality(
        features=space,
        frechet=frechet_distance(samples, test),
        kid=kernel_distance(samples, test),
        reference_frechet=frechet_distance(train, test),
        reference_kid=kernel_distance(train, test),
        samples=len(samples),
        train=len(train),
        test=len(test),
        note=note,
    )


def features_at_hand(data: DataSpec, splits: Splits, *, name: str, device: torch.device) -> tuple[Features | None, str]:
    """Return Inception's features; or None and the reason, if a classifier can be trained instead.

    Raises: DataError if the data, called `name`, are not images, or have no labels to train a classifier on.
    """
    if data.kind != "image":
        raise DataError(
            f"the quality of samples is measured on images, and {name} is {data.kind}. Use a model of images, or leave "
            "out --quality."
        )
    standard, note = inception(device)
    if standard is None and (splits.train.labels is None or splits.test.labels is None):
        raise DataError(
            f"the quality of samples needs the weights of Inception, or labels of {name} to train a classifier on, and "
            "neither is available. Install vqtk[quality] and run vqtk eval --quality once with a network connection, "
            "or use data with labels, such as mnist, cifar10 or svhn."
        )
    return standard, note


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features, (n, d) and (m, d).

    tr (AB)^½ is computed as the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric.

    Source: Heusel et al. 2017, FID.
    """
    one, other = one.double(), other.double()
    shift = (one.mean(0) - other.mean(0)).square().sum()
    first, second = _covariance(one), _covariance(other)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return (shift + first.trace() + second.trace() - 2 * cross).item()


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of features, (n, d) and (m, d), n and m at least 2.

    The kernel is (x·y / d + 1)³. All pairs are used, whereas some implementations average over random subsets.

    Source: Bińkowski et al. 2018, KID.
    """
    one, other = one.double(), other.double()
    n, m = len(one), len(other)
    within = (_kernel_sum(one, one) - _kernel_diagonal(one)) / (n * (n - 1))
    within += (_kernel_sum(other, other) - _kernel_diagonal(other)) / (m * (m - 1))
    return within - 2 * _kernel_sum(one, other) / (n * m)


def _kernel_sum(one: Tensor, other: Tensor) -> float:
    return sum((rows @ other.T / one.shape[1] + 1).pow(3).sum().item() for rows in one.split(1000))


def _kernel_diagonal(one: Tensor) -> float:
    return (one.square().sum(1) / one.shape[1] + 1).pow(3).sum().item()


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _features_of(space: Features, split: Split, items: Tensor, track: Track, what: str) -> Tensor:
    """Return the features of examples (indices) of a split: float64 (n, d), on the CPU."""
    images = batches_of(split, track(items.split(BATCH), what))
    return torch.cat([space.of(raw).double().cpu() for raw in images])


def _as_bytes(model: Model, codes: Tensor) -> Tensor:
    """Return decoded codes as pixels from 0 to 255."""
    pixels = model.data.pixels(model.loss.show(model.decode(codes)))
    return (pixels * 255).round().to(torch.uint8)


UPDATES = 1000
SEED = 0
"""The classifier's seed, whatever the run's, so that all runs on the same data are measured in one feature space."""
PATIENCE_S = 10
"""Seconds to wait for a server."""


@dataclass(frozen=True)
class Features:
    """A space of features: `of` maps images, uint8 (n, c, h, w), to features (n, d).

    `kind` is `inception` or `classifier`, `title` names the space in words, and `test_accuracy` is the classifier's;
    None for Inception.
    """

    of: Callable[[Tensor], Tensor]
    kind: str
    title: str
    test_accuracy: float | None = None


def inception(device: torch.device) -> tuple[Features | None, str]:
    """Return the features of Inception v3 by which FID is defined; or None, and a line that says why and what to do.

    Source: Heusel et al. 2017; the weights come from torch-fidelity.
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


def classifier_features(
    data: DataSpec, train: Split, test: Split, *, name: str, device: torch.device, track: Track
) -> Features:
    """Train a classifier on the labels of the data for a fixed number of updates; return its features.

    Both splits must have labels. `name` is that of the data set.
    """
    assert train.labels is not None
    assert test.labels is not None
    network = _trained(data, train, train.labels.cpu().long(), device=device, track=track)
    counted = torch.randperm(len(test), generator=generator(SEED, "classifier", "test"))[:10_000]
    with torch.no_grad():
        right = [
            (network(data.normalise(test[part].to(device))).argmax(1).cpu() == test.labels.cpu()[part]).double()
            for part in track(counted.split(CLASSIFIER_BATCH), "its accuracy")
        ]

    def features(images: Tensor) -> Tensor:
        return network.body(data.normalise(images.to(device)))

    title = f"features of a classifier trained on {name}"
    return Features(features, "classifier", title, torch.cat(right).mean().item())


def _trained(data: DataSpec, train: Split, labels: Tensor, *, device: torch.device, track: Track) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(SEED, "classifier").initial_seed())
        network = Classifier(data.shape, int(labels.max()) + 1).to(device)
    optimizer, order = torch.optim.Adam(network.parameters(), lr=CLASSIFIER_LR), Order(len(train), SEED)
    for update in track(range(UPDATES), "classifier for features"):
        indices = order(update * CLASSIFIER_BATCH, CLASSIFIER_BATCH)
        loss = F.cross_entropy(network(data.normalise(train[indices].to(device))), labels[indices].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()
