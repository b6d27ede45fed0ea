"""Metrics of single pixels and their neighbours: MSE, MAE, PSNR, gradient-energy ratio. One value per image.

Legend: B batch, C channels, H W pixels. All take (B, C, H, W), uint8 or floats in [0, 1], and return (B,)
float64.
"""

import torch
from torch import Tensor

from ssdd_metrics.images import check_pair, to_unit


def mse(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the mean squared error of each image, on the [0, 1] scale (papers often print it times 1000)."""
    check_pair(reference, reconstruction)
    return (to_unit(reference) - to_unit(reconstruction)).square().flatten(1).mean(1).double()


def mae(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the mean absolute error of each image, on the [0, 1] scale."""
    check_pair(reference, reconstruction)
    return (to_unit(reference) - to_unit(reconstruction)).abs().flatten(1).mean(1).double()


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image in dB, peak 1; `inf` for identical images.

    The mean of these values is not the PSNR of the pooled MSE (torchmetrics' default): the two differ by 1-2 dB
    or more.
    """
    return -10 * mse(reference, reconstruction).log10()


def gradient_energy_ratio(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Returns the energy of differences between neighbouring pixels, reconstruction over reference, per image.

    Below 1: blurred; above 1: noisy or over-sharpened. Noise imitates detail, so show the ratio together with PSNR
    and SSIM. Two images without any gradient (constant, or of one pixel) give 1; a constant reference alone gives
    `inf`.
    """
    check_pair(reference, reconstruction)
    before, after = _gradient_energy(to_unit(reference)), _gradient_energy(to_unit(reconstruction))
    # 0 / 0 would be NaN and spoil the mean, although nothing was lost.
    return torch.where((before == 0) & (after == 0), torch.ones_like(before), after / before)


def _gradient_energy(images: Tensor) -> Tensor:
    energy = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    for axis in (-1, -2):
        energy += images.diff(dim=axis).square().flatten(1).sum(1)
    return energy
