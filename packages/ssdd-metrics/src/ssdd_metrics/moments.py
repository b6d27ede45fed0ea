"""Mean and covariance of features in float64, as sums that add up, and the Frechet distance of two.

Legend: N images, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums that describe a set of feature vectors; those of two disjoint sets add up.

    Args:
        count: number of vectors, a scalar int64 tensor.
        total: their sum, (D,) float64.
        outer: the sum of their outer products, (D, D) float64.
    """

    count: Tensor
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Moments of (N, D) features of any float type."""
        features = features.double()
        return cls(torch.tensor(len(features)), features.sum(0), features.T @ features)

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, unbiased (N - 1); zero for a single vector."""
        centred = self.outer - torch.outer(self.total, self.mean)
        return centred / (self.count - 1).clamp(min=1)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between two Gaussians, `|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`.

    The trace of the root is the sum of the singular values of `A^(1/2) B^(1/2)` (Dowson and Landau 1982):
    symmetric decompositions only, hence no complex values and nothing below zero, also with fewer images than
    features.

    Args:
        a: moments of one set.
        b: moments of the other, of as many features.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: a side is empty, holds NaN or infinite features, or has another number of features.
    """
    for moments in (a, b):
        if not moments.count:
            raise ValueError("expected features of at least one image on both sides, got none: update first")
        if not torch.isfinite(moments.outer).all():
            raise ValueError("expected finite features, got NaN or infinite: run the feature network in float32")
    if a.total.shape != b.total.shape:
        raise ValueError(
            f"expected equal feature sizes, got {len(a.total)} and {len(b.total)}: use one feature network"
        )
    covariance_a, covariance_b = a.covariance.cpu(), b.covariance.cpu()
    root_trace = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    difference = a.mean.cpu() - b.mean.cpu()
    distance = difference @ difference + covariance_a.trace() + covariance_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root; eigenvalues that are rounding noise count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return (vectors * values.where(values > noise, 0).sqrt()) @ vectors.T
