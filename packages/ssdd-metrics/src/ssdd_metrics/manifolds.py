"""Precision and recall of generated images (Kynkäänniemi et al., "Improved precision and recall metric", 2019).

The set of real images is described by balls round their features, each as large as the distance to its k-th nearest
neighbour. Precision is the share of generated images within a ball of real ones; recall, with the sides exchanged.
"""

# N, M vectors, D features

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3  # as published
ROWS = 2048  # of a matrix of distances at a time


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares, from 0 to 1.

    Args:
        precision: generated images that look like a real one: quality.
        recall: real images that look like a generated one: variety.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Compares two sets of features; both figures depend on the numbers of images, so compare equal numbers.

    Args:
        real: (N, D), of real images.
        generated: (M, D), by the same network.
        neighbours: k; a vector is no neighbour of itself.

    Raises:
        ValueError: a side has k vectors or fewer, another number of features, or values that are not finite.
    """
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) <= neighbours:
            raise ValueError(
                f"expected more than {neighbours} {name} features (N, D), got {tuple(features.shape)}: give more images"
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"expected finite {name} features, got NaN or infinity: run the network in float32")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"expected equal feature sizes, got {real.shape[1]} and {generated.shape[1]}: use one feature network"
        )
    real, generated = real.double(), generated.double()
    return PrecisionRecall(
        precision=_inside(generated, real, _radii(real, neighbours)),
        recall=_inside(real, generated, _radii(generated, neighbours)),
    )


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Returns the distance of each vector to its k-th nearest other one: (N,)."""
    # The nearest of all is the vector itself, at distance 0; a repeated vector is a neighbour like any other.
    return torch.cat([_distances(rows, features).kthvalue(neighbours + 1).values for rows in features.split(ROWS)])


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Returns the share of points within a ball."""
    found = [(_distances(rows, centres) <= radii).any(dim=1) for rows in points.split(ROWS)]
    return float(torch.cat(found).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Without the shortcut by products, whose rounding would put a vector at a distance from itself.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
