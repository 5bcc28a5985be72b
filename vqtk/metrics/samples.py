"""Distances between samples and test images in a space of features."""

import torch
from torch import Tensor

from vqtk.metrics._base import SampleMetric
from vqtk.registry import metrics


@metrics.register("samples_frechet")
class SamplesFrechet(SampleMetric):
    """The squared Fréchet distance between Gaussians fitted to the features of samples and of test images.

    Source: Heusel et al. 2017, FID.
    """

    units = "squared features"
    better = "lower"

    def measure(self, samples: Tensor, test: Tensor) -> float:
        """Return the distance of two sets of features, (n, d) and (m, d)."""
        return frechet_distance(samples, test)


@metrics.register("samples_kernel")
class SamplesKernel(SampleMetric):
    """The unbiased squared maximum mean discrepancy of the features of samples and of test images.

    Source: Bińkowski et al. 2018, KID.
    """

    units = "kernel"
    better = "lower"

    def measure(self, samples: Tensor, test: Tensor) -> float:
        """Return the distance of two sets of features, (n, d) and (m, d), n and m at least 2."""
        return kernel_distance(samples, test)


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
