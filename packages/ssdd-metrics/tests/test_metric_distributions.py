"""Sliced Wasserstein distance and the random convolutional features."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from ssdd_metrics import Moments, RandomConvFeatures, SlicedWasserstein, frechet_distance
from ssdd_metrics.swd import laplacian_pyramid


def degraded(photographs):
    generator = torch.Generator().manual_seed(0)
    images = photographs.float() / 255
    noise = torch.randn(images.shape, generator=generator)
    blur = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return {
        "noise": [(images + level * noise).clamp(0, 1) for level in (0.02, 0.05, 0.15)],
        "blur": [blur, torch.nn.functional.avg_pool2d(images, 7, 1, 3, count_include_pad=False)],
    }


def swd(a, b):
    metric = SlicedWasserstein()
    metric.update(a, b)
    return metric.compute()


def test_histograms_agree_with_scipy_on_the_projections(photographs):
    """scipy's distance on all projections, kept in a list as the metric never does."""
    a, b = photographs.float() / 255, degraded(photographs)["noise"][1]
    metric = SlicedWasserstein()
    per_level = []
    for (level, band_a), (_, band_b) in zip(laplacian_pyramid(a), laplacian_pyramid(b), strict=True):
        rows_a, rows_b = metric.project(band_a).double().numpy(), metric.project(band_b).double().numpy()
        deviation = np.sqrt(rows_a.var(axis=1).mean())
        distances = [wasserstein_distance(x, y) for x, y in zip(rows_a, rows_b, strict=True)]
        per_level.append(np.mean(distances) / max(deviation, 1 / 255))
        assert level in range(5)
    assert swd(a, b) == pytest.approx(1000 * np.mean(per_level), rel=0.01)


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_distances_grow_with_the_damage(photographs, kind):
    network = RandomConvFeatures()
    reference = Moments.of(network(photographs))
    swds = [swd(photographs, images) for images in degraded(photographs)[kind]]
    frechets = [frechet_distance(reference, Moments.of(network(x))) for x in degraded(photographs)[kind]]
    assert swd(photographs, photographs) == 0 < swds[0]
    assert frechet_distance(reference, reference) < 1e-6 < frechets[0]
    assert swds == sorted(swds)
    assert frechets == sorted(frechets)


def test_swd_of_merged_parts_is_exactly_that_of_the_whole(photographs):
    other = degraded(photographs)["noise"][0]
    parts = [SlicedWasserstein() for _ in range(3)]
    for part, a, b in zip(parts, photographs.split(1), other.split(1), strict=True):
        part.update(a, b)
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert parts[0].compute() == swd(photographs, other)


def test_swd_of_constant_and_small_images():
    grey, white = torch.full((1, 3, 7, 7), 0.5), torch.ones(1, 3, 7, 7)
    assert swd(grey, grey) == 0
    assert np.isfinite(swd(grey, white))
    assert swd(grey, white) > 0
    with pytest.raises(ValueError, match="at least 7 pixels"):
        swd(torch.rand(1, 3, 40, 1), torch.rand(1, 3, 40, 1))
    with pytest.raises(ValueError, match="at least one image"), pytest.warns(UserWarning, match="compute"):
        SlicedWasserstein().compute()


def test_fixed_weights_are_the_same_on_every_machine():
    """The digests pin numpy's stream: should it change, this fails before numbers move."""
    network, metric = RandomConvFeatures(), SlicedWasserstein()
    weights = b"".join(weight.numpy().tobytes() for weight in network.buffers())
    assert hashlib.sha256(weights).hexdigest()[:16] == "035d83608a3f6e45"
    assert hashlib.sha256(metric.directions.numpy().tobytes()).hexdigest()[:16] == "de42618e93a863d0"


def test_random_features_of_any_size_and_no_global_randomness(photographs):
    state = torch.get_rng_state()
    network = RandomConvFeatures()
    assert torch.equal(torch.get_rng_state(), state)
    assert network(photographs).shape == (3, network.features) == (3, 144)
    line = network(torch.rand(1, 3, 40, 1))
    assert torch.isfinite(line).all()
    assert torch.equal(network(photographs), network(photographs.float() / 255))
    assert not list(network.parameters())
