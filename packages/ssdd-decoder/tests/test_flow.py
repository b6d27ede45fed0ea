"""The flow-matching path, its times and its sampler, as identities."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdd_decoder import flow
from ssdd_decoder.sampler import euler_sample
from ssdd_decoder.times import sample_training_times, sampling_grid, training_times

times = st.floats(0, 1)
F64 = torch.float64


def pair(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, 4, 6, dtype=F64, generator=generator) for _ in range(2))


@settings(deadline=None)
@given(t=times)
def test_true_velocity_leads_back_to_the_image(t):
    x, noise = pair()
    t = torch.tensor([t, 1 - t], dtype=F64)
    x_t = flow.interpolate(x, noise, t)
    v = flow.target_velocity(x, noise)
    torch.testing.assert_close(flow.predict_clean(x_t, v, t), x, atol=1e-12, rtol=0)


@settings(deadline=None)
@given(t=times, s=times)
def test_euler_step_along_the_true_velocity_stays_on_the_path(t, s):
    x, noise = pair()
    moved = flow.euler_step(
        flow.interpolate(x, noise, torch.tensor([t], dtype=F64)), flow.target_velocity(x, noise), t, s
    )
    torch.testing.assert_close(moved, flow.interpolate(x, noise, torch.tensor([s], dtype=F64)), atol=1e-12, rtol=0)


def test_path_ends_are_the_image_and_the_noise():
    x, noise = pair()
    assert torch.equal(flow.interpolate(x, noise, torch.zeros(2, dtype=F64)), x)
    assert torch.equal(flow.interpolate(x, noise, torch.ones(1, dtype=F64)), noise)


def test_velocity_is_minus_the_paths_derivative():
    x, noise = pair()
    t = torch.tensor([0.3, 0.8], dtype=F64)
    _, derivative = torch.func.jvp(lambda t: flow.interpolate(x, noise, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(derivative, -flow.target_velocity(x, noise))


@settings(deadline=None)
@given(t=st.floats(flow.SMALLEST_TIME, 1))
def test_velocity_from_a_clean_image_inverts_the_prediction(t):
    x, noise = pair()
    t = torch.tensor([t], dtype=F64)
    v = flow.velocity_from_clean(noise, x, t)
    torch.testing.assert_close(flow.predict_clean(noise, v, t), x, atol=1e-12, rtol=0)


def test_velocity_from_a_clean_image_is_bounded_near_the_end():
    x, noise = pair()
    v = flow.velocity_from_clean(noise, x, torch.zeros(1, dtype=F64))
    torch.testing.assert_close(v, (x - noise) / 0.05)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_constant_velocity_is_integrated_exactly(steps, power):
    noise, v = pair()
    out = euler_sample(lambda x, t: v, noise, steps, power)
    torch.testing.assert_close(out, noise + v, atol=1e-14, rtol=1e-14)


def test_straight_flow_to_an_image_ends_there_in_any_number_of_steps():
    x, noise = pair()
    for steps in (1, 8):
        out = euler_sample(lambda x_t, t: (x - x_t) / t, noise, steps)
        torch.testing.assert_close(out, x, atol=1e-12, rtol=0)


def test_linear_field_follows_eulers_closed_form():
    noise, _ = pair()
    grid = sampling_grid(5)
    expected = noise * math.prod(1 + 0.7 * (t - s) for t, s in pairwise(grid))
    torch.testing.assert_close(euler_sample(lambda x, t: 0.7 * x, noise, 5), expected)


def test_sampler_calls_the_network_once_per_step_with_shared_times():
    seen = []
    noise = torch.zeros(2, 3, 2, 2)
    euler_sample(lambda x, t: (seen.append(t), x)[1], noise, 4)
    assert all(t.shape == (1,) for t in seen)
    assert [t.item() for t in seen] == [1.0, 0.5625, 0.25, 0.0625]


def test_grid_is_the_published_one():
    assert sampling_grid(1) == [1.0, 0.0]
    assert sampling_grid(2) == [1.0, 0.25, 0.0]
    assert sampling_grid(8) == [(1 - i / 8) ** 2 for i in range(9)]
    assert sampling_grid(7) == pytest.approx([(1 - i / 7) ** 2 for i in range(8)], abs=1e-7)
    assert sampling_grid(np.int64(2)) == [1.0, 0.25, 0.0]


@settings(deadline=None)
@given(steps=st.integers(1, 300), power=st.floats(0.5, 4))
def test_grid_falls_from_one_to_zero(steps, power):
    grid = sampling_grid(steps, power)
    assert (grid[0], grid[-1], len(grid)) == (1.0, 0.0, steps + 1)
    assert all(t > s for t, s in pairwise(grid))


@pytest.mark.parametrize("steps", [0, -1, 1.0, "1", None, True, 10**9, float("nan")])
def test_wrong_steps_are_named(steps):
    with pytest.raises(ValueError, match=r"expected steps to be an integer from 1 to 10,000, got .*: 1 suits"):
        sampling_grid(steps)


@pytest.mark.parametrize("power", [0, -1.0, float("nan")])
def test_wrong_power_is_named(power):
    with pytest.raises(ValueError, match="expected power to be above 0"):
        sampling_grid(2, power)


def test_training_times_are_logit_normal():
    t = sample_training_times(200_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float32
    assert 0 < t.min() < t.max() < 1
    logit = torch.logit(t.double())
    assert logit.mean().item() == pytest.approx(0, abs=0.01)
    assert logit.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(t, sample_training_times(200_000, torch.Generator().manual_seed(0)))


def test_training_times_of_given_draws_are_the_sampled_ones():
    noise = torch.randn(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(training_times(noise), torch.sigmoid(noise))
    sampled = sample_training_times(5, torch.Generator().manual_seed(1), mean=0.5, std=2.0)
    assert torch.equal(training_times(noise, 0.5, 2.0), sampled)
    torch.testing.assert_close(torch.logit(sampled.double()), noise.double() * 2 + 0.5, atol=1e-5, rtol=1e-5)


def test_noise_of_an_image_does_not_depend_on_its_batch():
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = flow.draw_noise((2, 3, 4, 4), torch.zeros(1), generators)
    alone = flow.draw_noise((1, 3, 4, 4), torch.zeros(1), [torch.Generator().manual_seed(4)])
    assert torch.equal(together[1:], alone)


def test_noise_is_float32_for_half_precision():
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    full = flow.draw_noise((1, 3, 4, 4), torch.zeros(1), seeded())
    half = flow.draw_noise((1, 3, 4, 4), torch.zeros(1).half(), seeded())
    assert half.dtype == torch.float32
    assert torch.equal(full, half)


@pytest.mark.parametrize("shape", [(3,), (), (2, 1), (4,)])
def test_wrong_times_are_named(shape):
    x, noise = pair()
    with pytest.raises(ValueError, match=r"of shape \(1,\) or \(2,\), got"):
        flow.interpolate(x, noise, torch.zeros(shape, dtype=F64))
