"""The structural similarity of images."""

from torch import Tensor

from vqtk.errors import DataError, VqtkError
from vqtk.metrics._base import ReconstructionMetric
from vqtk.nn.types import DataSpec, Positive
from vqtk.registry import metrics


@metrics.register("ssim", dimensions=(2,), data={"name": "celeba", "size": 16})
class SSIM(ReconstructionMetric):
    """The structural similarity of pixels in [0, 1], within a Gaussian window; needs torchmetrics (extra `metrics`).

    `sigma` is the std of the window in pixels. Images are padded by reflection, and the similarity is averaged over all
    positions of the window.

    Raises: DataError if the images are smaller than half of the window, VqtkError without torchmetrics.
    Source: Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
    """

    units = "1 for equal images"
    better = "higher"
    kinds = ("image",)
    title = "SSIM"

    def __init__(self, data: DataSpec, *, sigma: Positive = 1.5):
        super().__init__(data)
        reach = int(3.5 * sigma + 0.5)  # Of the window to each side, in torchmetrics.
        if min(data.shape[1:]) <= reach:
            raise DataError(
                f"the window of ssim reaches {reach} pixels to each side, and the images have {data.shape[1]}×"
                f"{data.shape[2]}. Set a smaller `sigma`, as in ssim:0.8."
            )
        try:
            from torchmetrics.functional.image import structural_similarity_index_measure
        except ImportError:
            raise VqtkError("ssim needs torchmetrics, which is not installed: pip install 'vqtk[metrics]'.") from None
        self._similarity, self.sigma = structural_similarity_index_measure, sigma

    def measure(self, shown: Tensor, target: Tensor) -> Tensor:
        """Return the similarity of each image."""
        pixels = self.data.pixels(shown), self.data.pixels(target)
        found = self._similarity(*pixels, sigma=self.sigma, reduction="none", data_range=1.0)
        assert isinstance(found, Tensor)
        return found.reshape(len(shown))  # Of one image, torchmetrics returns a number.
