"""Examples of a class: a classifier scores how well a reconstruction fits it."""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import doc
from torch import Tensor, nn

from vqtk.datasets import Splits, fixed_subset
from vqtk.errors import DataError
from vqtk.guides._base import Guide
from vqtk.guides._classifier import CLASSIFIER_BATCH, Classifier, fit_classifier
from vqtk.models import Model
from vqtk.nn.types import Count, Whole
from vqtk.process import generator
from vqtk.registry import guides

Wanted = Annotated[Whole | str, doc("the name of a class, or its number")]
EPOCHS, UPDATES = 5, 1000
"""The most epochs, and the most updates, that the classifier is trained for."""


@guides.register("label", example={"wanted": 0})
class Label(Guide):
    """The negative log-probability of a class, in nats, by a small classifier of images.

    `wanted` is the class: its name, such as that of its folder, or its number if the names are not numbers themselves.

    The classifier is trained first, on at most `items` training examples and their labels, for 5 epochs or a thousand
    updates, whichever is fewer. Nothing of any test example is seen.

    Shapes: proposals (n, k, c, h, w) → (n, k), in nats.
    Raises: DataError if the data have no labels, or no such class.
    """

    observes = False
    classifier: nn.Module
    label: int

    def __init__(self, model: Model, *, wanted: Wanted, items: Count = 10_000):
        super().__init__(model)
        self.wanted, self.items = wanted, items

    def prepare(self, load: Callable[[], Splits], *, seed: int) -> None:
        """Train the classifier."""
        splits = load()
        train = splits.train
        if train.labels is None:
            raise DataError(
                "the guide `label` trains a classifier on labels, and these data have none. Use a model of mnist, svhn "
                "or cifar10, or of a folder of images with a sub-folder for each class."
            )
        classes = int(train.labels.max()) + 1
        self.label = splits.label(self.wanted)
        chosen = fixed_subset(train, self.items, seed)
        images = self.data.normalise(train[chosen].to(self.device))
        labels = train.labels.to(self.device)[chosen.to(self.device)].long()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator(seed, "label").initial_seed())
            self.classifier = Classifier(self.data.shape, classes).to(self.device)
        epochs = min(EPOCHS, -(-UPDATES // -(-len(chosen) // CLASSIFIER_BATCH)))
        fit_classifier(self.classifier, images, labels, seed=seed, epochs=epochs)
        self.classifier.eval()

    @torch.no_grad()
    def __call__(self, proposals: Tensor, observed: Tensor) -> Tensor:
        """Return the grid; what is observed is ignored."""
        logits = self.classifier(proposals.flatten(0, 1).float()).unflatten(0, proposals.shape[:2])
        return -logits.log_softmax(2)[..., self.label]
