"""Posteriors and the statistics of latents, against closed forms."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_encoder import LatentAccumulator, LatentStatistics, Posterior


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_moments_are_split_and_clamped():
    moments = torch.tensor([[1.0, 2.0, -99.0, 99.0]]).view(1, 4, 1, 1)
    posterior = Posterior.from_moments(moments)
    assert posterior.mode().flatten().tolist() == [1.0, 2.0]
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]


def test_kl_is_that_of_torch_distributions():
    mean, logvar = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Posterior(mean, logvar).kl(), expected)


def test_kl_in_float16_does_not_overflow():
    posterior = Posterior(torch.full((1, 4, 8, 8), 100.0).half(), torch.full((1, 4, 8, 8), 20.0).half())
    assert posterior.kl().item() == pytest.approx(0.5 * 256 * (1e4 + math.exp(20) - 21), rel=1e-5)


def test_samples_have_the_posteriors_moments():
    posterior = Posterior(torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), math.log(4.0)))
    z = posterior.sample(seeded(0)[0])
    assert z.mean().item() == pytest.approx(3.0, abs=0.05)
    assert z.std().item() == pytest.approx(2.0, abs=0.05)


def test_sample_of_an_image_does_not_depend_on_its_batch():
    posterior = Posterior(torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6))
    together = posterior.sample(seeded(7, 8, 9))
    alone = Posterior(posterior.mean[1:2], posterior.logvar[1:2]).sample(seeded(8))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_half_precision_sees_the_same_noise():
    zero = torch.zeros(2, 4, 8, 8)
    full = Posterior(zero, zero).sample(seeded(1)[0])
    half = Posterior(zero.bfloat16(), zero.bfloat16()).sample(seeded(1)[0])
    assert torch.equal(half, full.bfloat16())


def test_a_sample_of_given_noise_is_that_of_the_generator_and_at_least_float32():
    posterior = Posterior(torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6))
    noise = torch.randn(2, 4, 5, 6, generator=seeded(3)[0])
    assert torch.equal(posterior.sample(noise=noise), posterior.sample(seeded(3)[0]))
    half = Posterior(posterior.mean.bfloat16(), posterior.logvar.bfloat16())
    z = half.sample(noise=noise)
    assert z.dtype == torch.float32
    assert torch.equal(z, Posterior(half.mean.float(), half.logvar.float()).sample(noise=noise))
    assert Posterior(posterior.mean.double(), posterior.logvar.double()).sample(noise=noise).dtype == torch.float64


def test_wrong_noise_is_named():
    posterior = Posterior(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"expected noise of the mean's shape \(2, 1, 1, 1\), got \(1, 1, 1, 1\)"):
        posterior.sample(noise=torch.zeros(1, 1, 1, 1))
    with pytest.raises(ValueError, match="expected a generator or noise, got both"):
        posterior.sample(seeded(1)[0], noise=torch.zeros(2, 1, 1, 1))


@pytest.mark.parametrize("generator", [0, [0, 1], "seed", seeded(1), seeded(1, 2, 3), []])
def test_wrong_generators_are_named(generator):
    posterior = Posterior(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"expected .*enerator.* got"):
        posterior.sample(generator)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e6]))
def test_statistics_do_not_depend_on_how_batches_are_split(sizes, offset):
    latents = torch.randn(sum(sizes), 3, 2, 4, dtype=torch.float64) + offset
    accumulators = [LatentAccumulator(3), LatentAccumulator(3)]
    for i, batch in enumerate(latents.split(sizes)):
        accumulators[i % 2].update(batch)
    accumulators[0].merge(accumulators[1])
    statistics = accumulators[0].compute()
    values = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics.mean, values.mean(dim=1), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(statistics.std, values.std(dim=1), rtol=1e-9, atol=0)
    assert statistics.overall_mean == pytest.approx(latents.mean().item(), abs=1e-9)
    assert statistics.overall_std == pytest.approx(latents.std().item(), rel=1e-9)
    assert statistics.count == values.shape[1]


def test_normalized_latents_are_standard_and_come_back():
    z = torch.randn(8, 4, 6, 6, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1) + 5
    accumulator = LatentAccumulator(4)
    accumulator.update(z)
    statistics = LatentStatistics.from_dict(json.loads(json.dumps(accumulator.compute().to_dict())))
    normalized = statistics.normalize(z)
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(normalized.transpose(0, 1).flatten(1).std(dim=1), torch.ones(4).double())
    torch.testing.assert_close(statistics.denormalize(normalized), z)


def test_wrong_latents_are_named():
    accumulator = LatentAccumulator(4)
    with pytest.raises(ValueError, match="at least two"):
        accumulator.compute()
    with pytest.raises(ValueError, match=r"\(B, 4, h, w\), got \(1, 3, 2, 2\)"):
        accumulator.update(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="finite"):
        accumulator.update(torch.full((1, 4, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="channels"):
        accumulator.merge(LatentAccumulator(3))
    accumulator.update(torch.zeros(1, 4, 2, 2))
    statistics = accumulator.compute()
    with pytest.raises(ValueError, match="above 0"):
        statistics.normalize(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"\(B, 4, h, w\), got \(1, 3, 2, 2\)"):
        statistics.denormalize(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="to_dict"):
        LatentStatistics.from_dict({"mean": [1.0]})
