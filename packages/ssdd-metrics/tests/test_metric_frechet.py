import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ssdd_metrics import FrechetDistance, Moments, frechet_distance


def features(count, size, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator) / size**0.5
    return (torch.randn(count, size, generator=generator) @ mixing).relu() + shift


def torch_fidelity(a, b):
    """torch-fidelity's figure, on float64 copies of the features."""
    a, b = (fid_features_to_statistics(side.double()) for side in (a, b))
    return fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(("count", "size"), [(200, 16), (1000, 192)])
def test_agrees_with_torch_fidelity(count, size):
    a, b = features(count, size, 0), features(count, size, 1, shift=0.05)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(torch_fidelity(a, b), rel=1e-6)


@pytest.mark.slow
def test_agrees_with_torch_fidelity_on_many_features():
    a, b = features(600, 512, 0), features(600, 512, 0).roll(1, 1) * 1.01
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(torch_fidelity(a, b), rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_fewer_images_than_features(count):
    a, b = features(count, 64, 0), features(count, 64, 1)
    same = frechet_distance(Moments.of(a), Moments.of(a))
    different = frechet_distance(Moments.of(a), Moments.of(b))
    assert 0 <= same < 1e-9 * float(Moments.of(a).covariance.trace() + 1)
    assert np.isfinite(different)
    assert different > same


@pytest.mark.parametrize("count", [1, 2, 20, 63, 64, 65, 66, 128, 200])
@pytest.mark.parametrize("other", ["far", "near", "equal", "repeated"])
def test_any_number_of_images_equals_the_form_that_keeps_the_features(count, other):
    """F of `A = F F^T` is then the centred features themselves. With 128 features, Cholesky is used up to 64 images."""
    a = features(count, 128, 0)
    b = {
        "far": features(count, 128, 1, shift=0.05),
        "near": a + 1e-3 * features(count, 128, 1),
        "equal": a.clone(),
        "repeated": a[torch.arange(count) // 2],  # of half the rank
    }[other]
    centred = [(side.double() - side.double().mean(0)) / max(count - 1, 1) ** 0.5 for side in (a, b)]
    shift = a.double().mean(0) - b.double().mean(0)
    traces = sum(side.square().sum() for side in centred)
    expected = shift @ shift + traces - 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    found = frechet_distance(Moments.of(a), Moments.of(b))
    assert found == pytest.approx(float(expected), rel=1e-10, abs=1e-10 * float(traces + 1))


def test_few_images_are_not_decomposed_by_the_number_of_features(monkeypatch):
    shapes = []
    monkeypatch.setattr(torch.linalg, "eigh", None)
    monkeypatch.setattr(torch.linalg, "svdvals", lambda m: shapes.append(m.shape) or np.linalg.svd(m, compute_uv=False))
    frechet_distance(Moments.of(features(20, 512, 0)), Moments.of(features(30, 512, 1)))
    assert shapes == [(19, 29)]


def test_closed_form_of_axis_aligned_gaussians():
    a = Moments(torch.tensor(3), torch.zeros(2).double(), 2 * torch.diag(torch.tensor([4.0, 9.0])).double())
    b = Moments(torch.tensor(3), 3 * torch.tensor([1.0, 0]).double(), torch.zeros(2, 2).double())
    b = Moments(b.count, b.total, 2 * torch.eye(2).double() + torch.outer(b.total, b.mean))
    assert frechet_distance(a, b) == pytest.approx(1 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_one_image_is_a_point():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    assert frechet_distance(Moments.of(a), Moments.of(b)) == 25


def test_batches_and_merged_accumulators_equal_one():
    a, b = features(300, 32, 0), features(300, 32, 1)
    whole, first, second = FrechetDistance(32), FrechetDistance(32), FrechetDistance(32)
    whole.update(a, b)
    for part, lot in ((first, slice(0, 100)), (second, slice(100, 300))):
        for row_a, row_b in zip(a[lot].split(7), b[lot].split(7), strict=True):
            part.update(row_a, row_b)
    first.merge_state(second)
    assert int(first.reconstruction_count) == 300
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-10)


def test_float32_features_lose_nothing_to_float32_sums():
    a = features(2000, 8, 0, shift=1000.0)
    expected = np.cov(a.double().numpy(), rowvar=False)
    metric = FrechetDistance(8)
    for batch in a.split(10):
        metric.update(batch, batch)
    np.testing.assert_allclose(metric.moments("reference").covariance.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_state_does_not_grow():
    metric = FrechetDistance(16)
    sizes = []
    for seed in range(3):
        metric.update(features(50, 16, seed), features(50, 16, seed + 10))
        sizes.append({name: value.shape for name, value in metric.metric_state.items()})
    assert sizes[0] == sizes[2]
    assert max(value.numel() for value in metric.metric_state.values()) == 16 * 16


def test_stored_reference_equals_streamed_and_is_not_merged_twice():
    a, b = features(100, 8, 0), features(100, 8, 1)
    streamed = FrechetDistance(8)
    streamed.update(a, b)
    parts = [FrechetDistance(8, reference=Moments.of(a)) for _ in range(2)]
    parts[0].update(None, b[:30])
    parts[1].update(None, b[30:])
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == pytest.approx(streamed.compute(), rel=1e-10)


def test_stored_reference_of_another_count_is_refused():
    metric = FrechetDistance(8, reference=Moments.of(features(100, 8, 0)))
    metric.update(None, features(50, 8, 1))
    with pytest.raises(ValueError, match=r"as many reconstructions as .* have, 100, got 50"):
        metric.compute()


def test_clear_errors():
    metric = FrechetDistance(8)
    with pytest.raises(ValueError, match="at least one image"), pytest.warns(UserWarning, match="compute"):
        metric.compute()
    with pytest.raises(ValueError, match=r"features \(B, 8\), got \(5, 4\)"):
        metric.update(torch.rand(5, 4), torch.rand(5, 4))
    with pytest.raises(ValueError, match="exactly when no reference"):
        metric.update(None, torch.rand(5, 8))
    metric.update(torch.full((5, 8), float("nan")), torch.rand(5, 8))
    with pytest.raises(ValueError, match="finite features"):
        metric.compute()
    with pytest.raises(ValueError, match="equal feature sizes"):
        frechet_distance(Moments.of(torch.rand(5, 4)), Moments.of(torch.rand(5, 3)))
