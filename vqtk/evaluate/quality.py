"""The quality of samples: Fréchet distance and kernel distance between their features and those of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtk.datasets import Order, Split, Splits, batches_of
from vqtk.errors import DataError
from vqtk.evaluate.evaluation import Track, untracked
from vqtk.guides._classifier import CLASSIFIER_BATCH, CLASSIFIER_LR, Classifier
from vqtk.metrics import SampleMetric
from vqtk.models import Model
from vqtk.nn.types import DataSpec
from vqtk.process import generator, impatient
from vqtk.registry import metrics

MOST_ITEMS = 10_000
BATCH = 100


@dataclass(frozen=True)
class Quality:
    """Distances of samples from test data, and of train data for reference, in a space of features.

    Arguments:
        features: the space.
        distances: of samples from test data, by the name of the metric.
        reference: of train data from test data, likewise.
        samples: the number of samples.
        train: the number of train images.
        test: the number of test images.
        note: why the features are not the standard ones.
    """

    features: Features
    distances: dict[str, float]
    reference: dict[str, float]
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
        named = ("fid", "kid") if self.standard else ("frechet_classifier", "kid_classifier")
        names = dict(zip(("samples_frechet", "samples_kernel"), named, strict=True))
        return {
            **{names[metric]: self.distances[metric] for metric in names},
            "reference": {names[metric]: self.reference[metric] for metric in names},
            "features": self.features.title + ("" if self.standard else " (NOT the standard FID)"),
            "classifier_test_accuracy": self.features.test_accuracy,
            "samples": self.samples,
            "train_items": self.train,
            "test_items": self.test,
            "note": self.note or None,
        }


@torch.no_grad()
def quality(
    model: Model,
    splits: Splits,
    *,
    items: Tensor,
    name: str,
    seed: int,
    others: Mapping[str, SampleMetric] | None = None,
    track: Track = untracked,
) -> Quality:
    """Compare test examples (indices, at most 10,000) with as many samples, and with as many train examples.

    Samples decode the model's random codes and are rounded to 8 bits, like the data. `name` is that of the data set.
    `others` are metrics to compare by besides the Fréchet and the kernel distance.

    Raises: DataError if the data are not images, or there are no features to compare them in.
    """
    examples = examples_in_features(model, splits, items=items, name=name, seed=seed, track=track)
    codes = model.random_codes(len(examples.test), generator=generator(seed, "quality", "samples"))
    compared = {**distances_of_samples(model.data), **(others or {})}
    samples = examples.of_samples(model, codes, track)
    return Quality(
        features=examples.space,
        distances={name: metric.measure(samples, examples.test) for name, metric in compared.items()},
        reference=examples.reference(compared),
        samples=len(samples),
        train=len(examples.train),
        test=len(examples.test),
        note=examples.note,
    )


@dataclass(frozen=True)
class ExamplesInFeatures:
    """Test and train examples in a space of features, float64 (n, d): what samples are compared with.

    `note` says why the features are not the standard ones.
    """

    space: Features
    test: Tensor
    train: Tensor
    note: str

    def of_samples(self, model: Model, codes: Tensor, track: Track = untracked) -> Tensor:
        """Return the features of decoded codes (n, s), rounded to 8 bits like the data: float64 (n, d)."""
        parts = track(codes.split(BATCH), "features of samples")
        return torch.cat([self.space.of(_as_bytes(model, part)).double().cpu() for part in parts])

    def distances(self, model: Model, codes: Tensor, track: Track = untracked) -> dict[str, float]:
        """Return the Fréchet and the kernel distance of decoded codes (n, s) from the test examples."""
        samples = self.of_samples(model, codes, track)
        return {name: metric.measure(samples, self.test) for name, metric in distances_of_samples(model.data).items()}

    def reference(self, compared: Mapping[str, SampleMetric]) -> dict[str, float]:
        """Return the distances of the train from the test examples, which perfect samples would have."""
        return {name: metric.measure(self.train, self.test) for name, metric in compared.items()}


def examples_in_features(
    model: Model, splits: Splits, *, items: Tensor, name: str, seed: int, track: Track = untracked
) -> ExamplesInFeatures:
    """Return the features of test examples (indices, at most 10,000), and of as many train examples.

    Only the data of `model` and its device matter. Raises: DataError as `quality` does.
    """
    if len(items) < 2:
        raise DataError("the quality of samples needs at least 2 test examples, got 1. Raise --items.")
    standard, note = features_at_hand(model.data, splits, name=name, device=model.device)
    with torch.enable_grad():
        space = standard or classifier_features(
            model.data, splits.train, splits.test, name=name, device=model.device, track=track
        )
    chosen = items[torch.randperm(len(items), generator=generator(seed, "quality", "test"))[:MOST_ITEMS]]
    some = torch.randperm(len(splits.train), generator=generator(seed, "quality", "train"))[: len(chosen)]
    test = _features_of(space, splits.test, chosen, track, "features of test examples")
    train = _features_of(space, splits.train, some, track, "features of train examples")
    return ExamplesInFeatures(space, test, train, note)


def distances_of_samples(data: DataSpec) -> dict[str, SampleMetric]:
    """Return the metrics that always compare samples with examples, by name."""
    return {name: metrics.get(name).component(data) for name in ("samples_frechet", "samples_kernel")}


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
    try:
        with impatient():
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)
    except (OSError, RuntimeError) as error:
        return None, f"The standard FID needs the weights of Inception, which could not be downloaded ({error})."

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
