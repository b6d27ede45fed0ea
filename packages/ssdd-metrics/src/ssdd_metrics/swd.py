"""Streaming sliced Wasserstein distance of Laplacian patches (after Karras et al. 2018, arXiv 1710.10196).

Legend: B batch, H W pixels, L levels, P projections, K bins.

Each image is split into a Laplacian pyramid; 7 x 7 x 3 patches of each level are projected on P fixed random
directions; the distance is that between the one-dimensional distributions of the projections.

Unlike in the published script, patches lie on a fixed grid and the distributions are histograms with fine fixed bins.
Histograms add up over batches and processes in constant memory, and one process gives the same number as many. The
numbers can be compared with each other, not with those of the script.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from ssdd_metrics.images import to_unit

PATCH = 7
DIRECTIONS = 64
PATCHES_PER_SIDE = 16
LEVELS = 5  # four band-pass levels and the low-pass rest
SMALLEST_LEVEL = 16  # pixels; at half of it, a level would hold 2 x 2 patches
HALF_BINS = 512
FINEST = 0.005  # bins are linear below this projected value and logarithmic above
LARGEST = 13.0  # |projection| <= sqrt(147) for pixels in [0, 1]
GREY_LEVEL = 1 / 255


class SlicedWasserstein(Metric):
    """1000 times the distance between patch distributions, in standard deviations of the reference's patches.

    The distance is the mean over directions, then over the pyramid's levels; 0 means equal distributions. A level with
    a nearly constant reference is measured in grey levels (1/255) instead.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    reference: Tensor
    reconstruction: Tensor
    directions: Tensor

    def __init__(self) -> None:
        # compute() must not start a collective that the other processes do not join.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        for side in ("reference", "reconstruction"):
            zeros = torch.zeros(LEVELS, DIRECTIONS, 2 * HALF_BINS, dtype=torch.int64)
            self.add_state(side, zeros, dist_reduce_fx="sum")
        # Fixed by a seed, so not saved: a state holds counts alone.
        self.register_buffer("directions", _directions(), persistent=False)

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        """Adds a batch: two (B, 3, H, W), uint8 or in [0, 1].

        Raises:
            ValueError: a side is smaller than a patch (7 pixels).
        """
        if min(reference.shape[-2:]) < PATCH:
            raise ValueError(
                f"expected sides of at least {PATCH} pixels, got {tuple(reference.shape[-2:])}: "
                "leave `swd` out for such images"
            )
        for counts, images in ((self.reference, reference), (self.reconstruction, reconstruction)):
            for level, band in laplacian_pyramid(to_unit(images).float()):
                counts[level] += _histogram(self.project(band))

    def project(self, band: Tensor) -> Tensor:
        """Projects the grid of patches of a level on each direction: (B, 3, H, W) -> (P, patches)."""
        # At most about 16 patches per side, so that the cost of a level does not grow with the image.
        stride = [max(1, side // PATCHES_PER_SIDE) for side in band.shape[-2:]]
        return F.conv2d(band, self.directions, stride=stride).transpose(0, 1).flatten(1)

    def compute(self) -> float:
        """Returns the distance over the levels that the images have.

        Raises:
            ValueError: no image was added.
        """
        present = self.reference[:, 0].sum(1) > 0  # (L,)
        if not present.any():
            raise ValueError("expected at least one image, got none: update first")
        reference, reconstruction = self.reference[present].cpu(), self.reconstruction[present].cpu()
        edges = _edges()
        distances = _wasserstein(reference, reconstruction, edges).mean(1)  # over directions
        return float(1000 * (distances / _deviation(reference, edges).clamp(min=GREY_LEVEL)).mean())


def laplacian_pyramid(images: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields (level, band): the detail that each halving of (B, 3, H, W) removes, and last the remaining image."""
    for level in range(LEVELS - 1):
        if min(images.shape[-2:]) < 2 * SMALLEST_LEVEL:
            break
        smaller = F.avg_pool2d(images, 2)
        yield (
            level,
            images - F.interpolate(smaller, size=images.shape[-2:], mode="bilinear", align_corners=False),
        )
        images = smaller
    yield LEVELS - 1, images


def _directions() -> Tensor:
    # By numpy, since torch does not guarantee equal draws on all platforms; a test pins the values.
    generator = np.random.Generator(np.random.PCG64(7))
    directions = generator.standard_normal((DIRECTIONS, 3, PATCH, PATCH))
    directions /= np.sqrt((directions**2).sum((1, 2, 3), keepdims=True))
    return torch.from_numpy(directions.astype(np.float32))


def _edges() -> Tensor:
    """Returns the bin edges (K + 1,): the inverse of the index in `_histogram`."""
    steps = torch.arange(-HALF_BINS, HALF_BINS + 1, dtype=torch.float64) / HALF_BINS
    return FINEST * torch.sinh(steps * np.arcsinh(LARGEST / FINEST))


def _histogram(projections: Tensor) -> Tensor:
    """Counts projections by bin: (P, patches) -> (P, K)."""
    index = torch.asinh(projections / FINEST) * (HALF_BINS / np.arcsinh(LARGEST / FINEST))
    index = (index.floor().long() + HALF_BINS).clamp(0, 2 * HALF_BINS - 1)
    # Shifted by its row, so that a single bincount serves all directions.
    index += 2 * HALF_BINS * torch.arange(len(projections), device=index.device)[:, None]
    return torch.bincount(index.flatten(), minlength=2 * HALF_BINS * len(projections)).view(-1, 2 * HALF_BINS)


def _wasserstein(a: Tensor, b: Tensor, edges: Tensor) -> Tensor:
    """Returns the area between two cumulative distributions: counts (L, P, K) -> (L, P)."""
    gap = (a / a.sum(-1, keepdim=True)).cumsum(-1) - (b / b.sum(-1, keepdim=True)).cumsum(-1)
    gap = F.pad(gap.double().abs(), (1, 0))  # at the K + 1 edges
    return ((gap[..., 1:] + gap[..., :-1]) / 2 * edges.diff()).sum(-1)


def _deviation(counts: Tensor, edges: Tensor) -> Tensor:
    """Returns the deviation of the projections, root mean square over directions: counts (L, P, K) -> (L,)."""
    centres = (edges[1:] + edges[:-1]) / 2
    weights = counts / counts.sum(-1, keepdim=True).double()
    mean = (weights * centres).sum(-1, keepdim=True)
    return (weights * (centres - mean) ** 2).sum(-1).mean(-1).sqrt()
