"""SSIM in its two conventions, one value per image (Wang et al. 2004, doi 10.1109/TIP.2003.819861).

Legend: B batch, C channels, H W pixels.

The two conventions differ by 0.003-0.01 on photographs, so each has a name:

- `ssim_gaussian`, as in the paper: Gaussian window of 11 pixels, sigma 1.5, population covariance.
- `ssim_uniform`, scikit-image's default: uniform window of 7 pixels, sample covariance.

Both average over the channels and over the pixels whose window lies inside the image, as the paper and
scikit-image do. torchmetrics adds a mirrored border, which moves its mean by 0.003 at 256 pixels and by 0.02 at 96;
its 2-D convolution takes 37 ms per 256-pixel image in float32, this file 2 ms (an Inception forward 58 ms).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdd_metrics.images import check_pair, to_unit

C1, C2 = 0.01**2, 0.03**2  # the paper's K1 and K2, squared, for a dynamic range of 1
_GAUSSIAN = [math.exp(-0.5 * (offset / 1.5) ** 2) for offset in range(-5, 6)]
# The taps must add up to 1 exactly, or constant images would not give 1.
GAUSSIAN_TAPS = tuple(weight / math.fsum(_GAUSSIAN) for weight in _GAUSSIAN)
UNIFORM_TAPS = (1 / 7,) * 7


def ssim_gaussian(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the SSIM of each image with the Gaussian window.

    Args:
        reference: (B, C, H, W), uint8 or floats in [0, 1], sides of at least 11 pixels.
        reconstruction: same shape.

    Returns:
        (B,) float64, 1 for identical images.

    Raises:
        ValueError: shapes differ or a side is smaller than the window.
    """
    return _ssim(reference, reconstruction, GAUSSIAN_TAPS, correction=1.0)


def ssim_uniform(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the SSIM of each image with the uniform window; as `ssim_gaussian`, sides of at least 7 pixels."""
    # 49 / 48 turns the population covariance of 7 x 7 pixels into the sample covariance.
    return _ssim(reference, reconstruction, UNIFORM_TAPS, correction=49 / 48)


def _ssim(reference: Tensor, reconstruction: Tensor, taps: Sequence[float], correction: float) -> Tensor:
    check_pair(reference, reconstruction, smallest_side=len(taps))
    x, y = to_unit(reference), to_unit(reconstruction)
    if x.is_cpu:  # a single image stays in the processor's cache: more than twice as fast
        pairs = zip(x, y, strict=True)
        similarity = torch.stack([_similarity(*pair, taps, correction) for pair in pairs])
    else:
        similarity = _similarity(x, y, taps, correction)
    return similarity.double().mean(1)  # (B, C) -> (B,)


def _similarity(x: Tensor, y: Tensor, taps: Sequence[float], correction: float) -> Tensor:
    """Returns the SSIM map averaged over its pixels: (..., H, W) -> (...)."""
    # Variances do not depend on the origin, and around each plane's mean float32 loses nothing to cancellation.
    x_mean, y_mean = x.mean((-2, -1), keepdim=True), y.mean((-2, -1), keepdim=True)
    x, y = x - x_mean, y - y_mean
    mu_x, mu_y = _window_mean(x, taps), _window_mean(y, taps)
    variances = (_window_mean(x * x + y * y, taps) - mu_x * mu_x - mu_y * mu_y) * correction
    covariance = (_window_mean(x * y, taps) - mu_x * mu_y) * correction
    mu_x, mu_y = mu_x + x_mean, mu_y + y_mean
    luminance = (2 * mu_x * mu_y + C1) / (mu_x * mu_x + mu_y * mu_y + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean((-2, -1))


def _window_mean(images: Tensor, taps: Sequence[float]) -> Tensor:
    """Filters with a separable symmetric window, unpadded: (..., H, W) -> (..., H - k + 1, W - k + 1) for k taps."""
    reach = len(taps) // 2
    for axis in (-1, -2):
        size = images.shape[axis] - 2 * reach
        filtered = images.narrow(axis, reach, size) * taps[reach]
        for k in range(reach):  # the symmetry halves the multiplications
            mirrored = images.narrow(axis, k, size) + images.narrow(axis, 2 * reach - k, size)
            filtered.add_(mirrored, alpha=taps[k])
        images = filtered
    return images
