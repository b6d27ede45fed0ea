"""Mean and covariance of features in float64, as sums that add up, and the Frechet distance between two such sets.

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
        """Returns the moments of (N, D) features of any float type."""
        features = features.double()
        return cls(torch.tensor(len(features)), features.sum(0), features.T @ features)

    @property
    def mean(self) -> Tensor:
        """The mean (D,), float64."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D), float64, divided by N - 1; zero for a single vector."""
        centred = self.outer - torch.outer(self.total, self.mean)
        return centred / (self.count - 1).clamp(min=1)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the squared Frechet distance of two Gaussians, `|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`.

    The trace of the root is the sum of the singular values of `F^T G`, where `A = F F^T` and `B = G G^T` (Dowson and
    Landau 1982, with the symmetric roots): no complex values and nothing below zero, also with fewer images than
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
    factor_a, factor_b = _factor(covariance_a, int(a.count)), _factor(covariance_b, int(b.count))
    root_trace = torch.linalg.svdvals(factor_a.T @ factor_b).sum()
    difference = a.mean.cpu() - b.mean.cpu()
    distance = difference @ difference + covariance_a.trace() + covariance_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)  # rounding may leave -1e-12 for equal sets


def _factor(covariance: Tensor, count: int) -> Tensor:
    """Returns F (D, rank) with `F F^T` equal to the covariance of `count` images."""
    rank = min(count - 1, len(covariance))
    # From half the features up, the eigenvalues are about as fast.
    if 2 * rank < len(covariance):
        return _cholesky(covariance, rank)
    # Rounded zeros are left out: the root of 1e-16 is 1e-8, and 2048 of these would add up.
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.where(values > _noise(values), 0).sqrt()


def _cholesky(covariance: Tensor, rank: int) -> Tensor:
    """Returns the pivoted Cholesky factor: exact for that rank, in D rank^2 instead of D^3 operations."""
    left = covariance.diagonal().clone()  # the part of the diagonal that the columns so far do not explain
    noise = _noise(left)
    factor = covariance.new_zeros(len(covariance), rank)
    for k in range(rank):
        pivot = int(left.argmax())
        if left[pivot] <= noise:  # repeated images: the rank is lower, and dividing by the rest would amplify noise
            return factor[:, :k]
        factor[:, k] = (covariance[:, pivot] - factor[:, :k] @ factor[pivot, :k]) / left[pivot].sqrt()
        left -= factor[:, k].square()
    return factor


def _noise(values: Tensor) -> Tensor:
    """Returns the size of a rounded zero among D values, by the largest of them."""
    return values.max().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
