"""PSNR, SSIM, MSE, MAE against other libraries, which compute their side in each test."""

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from ssdd_metrics import gradient_energy_ratio, mae, mse, psnr, ssim_gaussian, ssim_uniform

PAIRS = ["random", "blurred photographs", "noisy photographs"]


def unit(images):
    """(B, 3, H, W) uint8 -> list of float64 (H, W, 3) in [0, 1]."""
    return [image.permute(1, 2, 0).numpy().astype(np.float64) / 255 for image in images]


def assert_agrees(ours, theirs, pair, tolerance=1e-5):
    reference, reconstruction = pair
    expected = [theirs(a, b) for a, b in zip(unit(reference), unit(reconstruction), strict=True)]
    for dtype in (torch.uint8, torch.float32, torch.float64):
        images = pair if dtype == torch.uint8 else [side.to(dtype) / 255 for side in pair]
        values = ours(*images)
        assert values.shape == (len(reference),)
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_agrees_with_scikit_image(pairs, name):
    assert_agrees(psnr, lambda a, b: peak_signal_noise_ratio(a, b, data_range=1), pairs[name])


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_gaussian_agrees_with_scikit_image(pairs, name):
    def theirs(a, b):
        return structural_similarity(
            a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )

    assert_agrees(ssim_gaussian, theirs, pairs[name])


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_uniform_agrees_with_scikit_image(pairs, name):
    assert_agrees(ssim_uniform, lambda a, b: structural_similarity(a, b, data_range=1, channel_axis=-1), pairs[name])


@pytest.mark.parametrize("name", PAIRS)
def test_errors_agree_with_numpy(pairs, name):
    assert_agrees(mse, mean_squared_error, pairs[name], 1e-7)
    assert_agrees(mae, lambda a, b: np.abs(a - b).mean(), pairs[name], 1e-7)


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_energy_ratio_agrees_with_numpy(pairs, name):
    def energy(image):
        return sum((np.diff(image, axis=axis) ** 2).sum() for axis in (0, 1))

    assert_agrees(gradient_energy_ratio, lambda a, b: energy(b) / energy(a), pairs[name])


def test_gaussian_ssim_agrees_with_torchmetrics_inside_the_image(pairs):
    """torchmetrics also averages over a mirrored border, which Wang et al. and scikit-image leave out."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    reference, reconstruction = (side.double() / 255 for side in pairs["noisy photographs"])
    _, full = structural_similarity_index_measure(
        reconstruction, reference, data_range=1.0, reduction="none", return_full_image=True
    )
    expected = full[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim_gaussian(reference, reconstruction), expected, atol=1e-6, rtol=0)


def test_psnr_is_per_image_and_infinite_for_identical_ones(photographs):
    values = psnr(photographs, torch.cat([photographs[:1], photographs[1:].flip(-1)]))
    assert values[0] == float("inf")
    assert torch.isfinite(values[1:]).all()


def test_values_do_not_depend_on_the_batch(pairs):
    reference, reconstruction = pairs["noisy photographs"]
    for metric in (mse, mae, psnr, ssim_gaussian, ssim_uniform, gradient_energy_ratio):
        alone = torch.cat([metric(a[None], b[None]) for a, b in zip(reference, reconstruction, strict=True)])
        torch.testing.assert_close(metric(reference, reconstruction), alone, rtol=1e-6, atol=0)
