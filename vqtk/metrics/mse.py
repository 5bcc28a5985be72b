"""The squared error, in training units and of pixels, and the signal-to-noise ratio."""

from math import log10

from torch import Tensor

from vqtk.metrics._base import ReconstructionMetric
from vqtk.registry import metrics


@metrics.register("mse")
class SquaredError(ReconstructionMetric):
    """The mean squared error in training units."""

    units = "squared training units"
    better = "lower"
    kinds = ("image", "voxels", "points", "signals")
    title = "MSE (training units)"
    digits = ".5f"

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the values of each example."""
        return (shown - target).square().flatten(1).mean(1)


class _OfPixels(ReconstructionMetric):
    """The squared error of pixels."""

    kinds = ("image",)

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the pixels of each example."""
        return (self.data.pixels(shown) - self.data.pixels(target)).square().flatten(1).mean(1)


@metrics.register("mse_pixels", dimensions=(2,))
class PixelError(_OfPixels):
    """The mean squared error of pixels in [0, 1]; reconstructions are clamped to this range."""

    units = "squared pixels in [0, 1]"
    better = "lower"
    title = "MSE (pixels)"
    digits = ".5f"


@metrics.register("psnr_db", dimensions=(2,))
class PSNR(_OfPixels):
    """The peak signal-to-noise ratio of the mean squared error of pixels in [0, 1]."""

    units = "dB"
    better = "higher"
    title = "PSNR (dB)"
    digits = ".2f"

    def total(self, mean: float) -> float | None:
        """Return the ratio of a mean squared error; None if it is infinite."""
        return decibels(mean)


def decibels(mse_pixels: float) -> float | None:
    """Return the peak signal-to-noise ratio of a mean squared error of pixels in [0, 1]; None if it is infinite."""
    return 10 * log10(1 / mse_pixels) if mse_pixels else None
