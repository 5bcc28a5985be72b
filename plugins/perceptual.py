"""A perceptual loss: the distance between proposal and target in the features of a frozen network.

An example of a loss with its own network, and of a plugin that is also a program: `python plugins/perceptual.py mnist
-o features.safetensors` trains `small` features by classification of a data set.
"""

import argparse
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqtk.datasets import Order, data_root
from vqtk.errors import DataError, ShapeError, VqtkError
from vqtk.files import replacing
from vqtk.losses import Loss
from vqtk.nn.types import DataSpec, Fraction
from vqtk.registry import datasets, losses

AT_ONCE = 256
"""The number of proposals that go through the network at a time; the backward pass recomputes their activations."""
UPDATES, BATCH = 1000, 100
_TRAIN = "Train them: python plugins/perceptual.py DATASET -o FILE. Or use `features: random`, which needs no file."
_VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""What torchvision trained on ImageNet, where it names it: `VGG16_Weights.IMAGENET1K_V1.url`."""
_FETCH = f"Download {_VGG16} and name the file with `weights`. Or use `features: random`."


class Small(nn.Sequential):
    """Two strided convolutions, as steps: pixels (n, channels, h, w) in [0, 1] → (n, 32, h/4, w/4)."""

    def __init__(self, channels: int):
        widths = ((channels, 16), (16, 32))
        super().__init__(*(nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ReLU()) for i, o in widths))


class VGG(nn.Sequential):
    """The first three blocks of VGG-16, as steps: pixels (n, 3, h, w) in units of ImageNet → (n, 256, h/4, w/4)."""

    def __init__(self) -> None:
        from torchvision.models.vgg import cfgs, make_layers  # Here, because importing it takes seconds.

        layers = make_layers(cfgs["D"][:9])
        super().__init__(layers[:4], layers[4:9], layers[9:])


@losses.register("perceptual", dimensions=(2,))
class Perceptual(Loss):
    """Mean squared distance in the features of a frozen network, mixed with a fraction `mse` of the mean squared error.

    The distance is the mean over the values of each step of the network, and over the steps. `features` are those of a
    `random` network, drawn with the model's weights; of the same network trained (`small`, with `weights` its file); or
    of torchvision's `vgg16` (with `weights` its state dict, by default that in torchvision's cache). The file is read
    whenever the model is built, because checkpoints do not hold these weights.

    Shapes: reconstruction as the data, (c, h, w); the network's input is its pixels, not clamped.
    Raises: ShapeError if the data are not images; DataError if there are no weights, or they do not fit.
    Source: Johnson et al. 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        features: Literal["random", "small", "vgg16"] = "random",
        weights: str | None = None,
        mse: Fraction = 0.5,
    ):
        channels, *size = data.shape
        if data.kind != "image" or len(size) != 2 or (features == "vgg16" and channels not in (1, 3)):
            raise ShapeError(
                f"perceptual with `features: {features}` was given {data.kind} of shape {data.shape}. Expected images "
                "(channels, height, width), of 1 or 3 channels for vgg16. Use mse or l1."
            )
        super().__init__(data, shape=data.shape, channels=channels, out_channels=channels, size=tuple(size))
        self.mse = mse
        self.network = VGG() if features == "vgg16" else Small(channels)
        if features != "random":
            _read(self.network, weights)
        _freeze(self.network)

    def forward(self, proposals: Tensor, target: Tensor) -> Tensor:
        """Return the grid, a few proposals at a time."""
        n, k = proposals.shape[:2]
        squared = (proposals - target[:, None]).square().flatten(2).mean(2)
        example, aims = torch.arange(n, device=target.device).repeat_interleave(k), self._features(target)
        apart = [
            checkpoint(self._distance, piece, [aim[of] for aim in aims], use_reentrant=False, preserve_rng_state=False)
            for piece, of in zip(proposals.flatten(0, 1).split(AT_ONCE), example.split(AT_ONCE), strict=True)
        ]
        return self.mse * squared + (1 - self.mse) * torch.cat(apart).reshape(n, k)

    def _distance(self, proposals: Tensor, aims: list[Tensor]) -> Tensor:
        """Return the distances (m,) of proposals (m, c, h, w) from the features of their targets, each (m, …)."""
        pairs = zip(self._features(proposals), aims, strict=True)
        return torch.stack([(found - aim).square().flatten(1).mean(1) for found, aim in pairs]).mean(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Return the features after each step; for VGG, grey is repeated and images below 32 pixels are enlarged."""
        step, after = x * self.data.std + self.data.mean, []
        if isinstance(self.network, VGG):
            mean, std = (step.new_tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            size = [max(32, side) for side in self.size]
            step = F.interpolate((step.expand(-1, 3, -1, -1) - mean) / std, size, mode="bilinear")
        for part in self.network:
            step = part(step)
            after.append(step)
        return after


def _read(network: nn.Module, weights: str | None) -> None:
    """Copy trained weights into a network. Raises: DataError that says how to get them."""
    large = isinstance(network, VGG)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(_VGG16).name
    if not (weights or large):
        raise DataError(f"`features: small` needs `weights`, the file of trained features. {_TRAIN}")
    path = Path(weights).expanduser() if weights else cached
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        for name, value in network.named_parameters():
            trained = stored["features." + name.partition(".")[2] if large else name]
            if trained.shape != value.shape:
                raise ValueError(f"{name} is {tuple(trained.shape)}, not {tuple(value.shape)}")
            value.data.copy_(trained)
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(
            f"{path}: cannot be read as weights of {'vgg16' if large else 'small features for these data'} ({what}). "
            f"{_FETCH if large else _TRAIN}"
        ) from None


def _freeze(network: nn.Module) -> None:
    """Turn parameters into buffers that checkpoints do not store: they move with the model, but are not trained."""
    for part in network.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, value.detach(), persistent=False)


def train_features(name: str, path: Path, *, updates: int = UPDATES) -> float:
    """Train small features to classify a data set, write them, and return the accuracy on at most 2,000 test examples.

    Raises: DataError if the data are not images with labels.
    """
    data = datasets.get(name).component()
    splits = data.load(data_root())
    train, test = splits.train, splits.test
    if train.labels is None or test.labels is None or len(data.spec.shape) != 3:
        raise DataError(f"{name} has no labels to train features on. Use images with labels, such as mnist or svhn.")
    classes, shape = int(train.labels.max()) + 1, data.spec.shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = Small(shape[0])
        head = nn.Linear(network(torch.zeros(1, *shape)).numel(), classes)
    classifier = nn.Sequential(network, nn.Flatten(), head)
    optimizer, order = torch.optim.Adam(classifier.parameters(), lr=1e-3), Order(len(train), 0)
    for update in range(updates):
        indices = order(update * BATCH, BATCH)
        optimizer.zero_grad()
        F.cross_entropy(classifier(train[indices] / 255), train.labels[indices].long()).backward()
        optimizer.step()
    with replacing(path) as temporary:
        save_file(network.state_dict(), temporary)
    indices = Order(len(test), 0)(0, min(len(test), 2000))
    with torch.no_grad():
        return (classifier(test[indices] / 255).argmax(1) == test.labels[indices]).double().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the small features of the perceptual loss.")
    parser.add_argument("dataset", help="mnist, svhn or cifar10")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a .safetensors file")
    asked = parser.parse_args()
    try:
        print(f"{asked.output}: test accuracy {train_features(asked.dataset, asked.output):.4f}")
    except VqtkError as error:
        parser.exit(2, f"{error}\n")
