"""The perceptual distance of images, by a network trained to recognise objects."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtk.errors import DataError, VqtkError
from vqtk.metrics._base import ReconstructionMetric
from vqtk.nn.types import DataSpec
from vqtk.process import impatient
from vqtk.registry import metrics

_SMALLEST = 64
"""The side in pixels to which smaller images are enlarged: AlexNet reduces an image 32-fold."""


@metrics.register("lpips", dimensions=(2,), data={"name": "celeba", "size": 16})
class LPIPS(ReconstructionMetric):
    """The perceptual distance of pixels by features of AlexNet; needs torchmetrics (extra `metrics`) and a download.

    Images of one channel are shown in grey; images smaller than 64×64 are enlarged to this size (bilinear).

    Raises: DataError if AlexNet's weights cannot be downloaded or images have 2 channels or more than 3, VqtkError
        without torchmetrics.
    Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (version 0.1).
    """

    units = "0 for equal images"
    better = "lower"
    kinds = ("image",)
    title = "LPIPS"

    def __init__(self, data: DataSpec):
        super().__init__(data)
        if data.shape[0] not in (1, 3):
            raise DataError(f"lpips compares images of 1 or 3 channels, and these have {data.shape[0]}. Use ssim.")
        try:
            from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
        except ImportError:
            raise VqtkError("lpips needs torchmetrics, which is not installed: pip install 'vqtk[metrics]'.") from None
        try:
            with torch.random.fork_rng(devices=[]), impatient():
                self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.eval()
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"lpips needs the weights of AlexNet, which could not be downloaded ({error}). Run it once with a "
                "network connection; they are then kept in torch's cache."
            ) from None

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each image."""
        self.network.to(shown.device)
        found = self.network(self._seen(shown), self._seen(target), normalize=True)
        assert isinstance(found, Tensor)
        return found.flatten()

    def _seen(self, images: Tensor) -> Tensor:
        """Return images as the network takes them: (n, 3, h, w), in [0, 1], float32."""
        pixels = self.data.pixels(images).float().expand(-1, 3, -1, -1)
        size = [max(_SMALLEST, side) for side in pixels.shape[2:]]
        return pixels if size == [*pixels.shape[2:]] else F.interpolate(pixels, size, mode="bilinear")
