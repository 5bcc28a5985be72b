"""How much codes reveal of the class: classifiers on the one-hot codes of the first 1, 2, … stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtk.datasets import Split
from vqtk.errors import DataError
from vqtk.evaluate.evaluation import Track, untracked
from vqtk.guides._classifier import CLASSIFIER_BATCH, CLASSIFIER_LR, fit_classifier
from vqtk.process import generator

EPOCHS = 10
HIDDEN = 128
FALL = 0.02
"""How much accuracy a classifier may lose with more stages before it counts as overfitting."""


@dataclass(frozen=True)
class Probe:
    """Test accuracy of a linear classifier and of an MLP on the codes of the first 1…S stages, each a list (s,).

    `linear_train` and `mlp_train` are their accuracies on the examples that they were trained on.
    """

    linear: list[float]
    mlp: list[float]
    linear_train: list[float]
    mlp_train: list[float]
    train_items: int
    test_items: int
    epochs: int = EPOCHS
    batch: int = CLASSIFIER_BATCH
    lr: float = CLASSIFIER_LR
    hidden: int = HIDDEN

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON, with the classifiers that overfit."""
        return {**asdict(self), "overfits": self.overfits()}

    def overfits(self) -> list[str]:
        """Return which of `linear` and `mlp` lose test accuracy with more stages while they memorise train examples.

        More stages never hold less information about the class, so a classifier whose accuracy falls by more than FALL
        has too few examples.
        """
        pairs = {"linear": (self.linear, self.linear_train), "mlp": (self.mlp, self.mlp_train)}
        return [
            name for name, (test, train) in pairs.items() if max(test) - test[-1] > FALL and train[-1] - test[-1] > FALL
        ]


class OneHotLinear(nn.Module):
    """A linear layer on one-hot codes scaled by √options, computed as a sum of rows without the one-hot tensor.

    Its weights are initialised as those of `nn.Linear`, from the global generator.

    Shapes: codes (n, s) in [0, options) → (n, outputs).
    """

    first: Tensor

    def __init__(self, stages: int, options: int, outputs: int):
        super().__init__()
        dense = nn.Linear(stages * options, outputs)
        self.options = options
        self.weight = nn.Parameter(dense.weight.detach().T.contiguous())
        self.bias = nn.Parameter(dense.bias.detach())
        self.register_buffer("first", torch.arange(stages) * options, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the layer's output."""
        rows = F.embedding_bag(codes + self.first, self.weight, mode="sum")
        return rows * self.options**0.5 + self.bias


def probe(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, options: int, seed: int, track: Track = untracked
) -> Probe:
    """Train two classifiers for every stage, on the codes up to it, and score them on the test codes.

    The protocol is the original's: one-hot codes scaled by √options, Adam with learning rate 1e-3, batches of 100,
    10 epochs; a linear classifier, and an MLP with 128 hidden units. They are scored after the last epoch.

    Shapes: `train` and `test` are codes (n, s) and labels (n,), counted from 0.
    Source: Nichol 2020, arXiv 2003.01599, the classifier on codes of the original implementation.
    """
    classes = int(max(train[1].max(), test[1].max())) + 1
    accuracy: dict[int, list[float]] = {0: [], HIDDEN: []}
    learned: dict[int, list[float]] = {0: [], HIDDEN: []}
    pairs = [(stages, hidden) for stages in range(1, train[0].shape[1] + 1) for hidden in accuracy]
    for stages, hidden in track(pairs, "classifiers"):
        model = classifier(stages, options, classes=classes, hidden=hidden, seed=seed)
        fit_classifier(model, train[0][:, :stages].contiguous(), train[1], seed=seed, epochs=EPOCHS)
        for found, (codes, labels) in ((learned, train), (accuracy, test)):
            with torch.no_grad():
                right = model(codes[:, :stages]).argmax(1) == labels
            found[hidden].append(right.double().mean().item())
    counts = {"train_items": len(train[1]), "test_items": len(test[1])}
    return Probe(accuracy[0], accuracy[HIDDEN], learned[0], learned[HIDDEN], **counts)


def classifier(stages: int, options: int, *, classes: int, hidden: int, seed: int) -> nn.Module:
    """Return a classifier of codes (n, stages) → logits (n, classes): linear if `hidden` is 0, otherwise an MLP."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(seed, "probe", stages, hidden).initial_seed())
        if not hidden:
            return OneHotLinear(stages, options, classes)
        return nn.Sequential(OneHotLinear(stages, options, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def labels_of(split: Split, items: Tensor, what: str) -> Tensor:
    """Return the labels of examples (indices), int64, on the CPU. Raises: DataError if the data have no labels."""
    if split.labels is None:
        raise DataError(
            f"the {what} examples have no labels, which --probe trains classifiers on. Expected data with labels, such "
            "as mnist, cifar10 or svhn. Run vqtk eval without --probe."
        )
    return split.labels.cpu()[items].long()
