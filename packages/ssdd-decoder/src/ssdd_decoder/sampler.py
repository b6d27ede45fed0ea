"""Euler integration of the learned flow on the published grid: noise to image."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from ssdd_decoder.flow import euler_step
from ssdd_decoder.times import GRID_POWER, check_steps, sampling_times


def euler_sample(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, power: float = GRID_POWER
) -> Tensor:
    """Follows the velocity from t = 1 to t = 0 in K Euler steps on the grid t_i = (1 - i / K)^power.

    Args:
        velocity: maps x_t (B, 3, H, W) and t (1,), shared by all images, to v (B, 3, H, W).
        noise: (B, 3, H, W), the point at t = 1.
        steps: K, from 1 up.
        power: exponent of the grid; 2 is published.

    Returns:
        (B, 3, H, W) at t = 0, not clamped, in the noise's dtype.

    Raises:
        ValueError: steps is not an integer from 1 up.
    """
    check_steps(steps)
    # Times are tensors: a compiled step would take a Python number for a constant, and compile again for the next one.
    times = _times_on(noise.device, steps, power) if noise.is_cuda else sampling_times(steps, power)
    x = noise
    for t, s in pairwise(times.to(noise.device, noise.dtype)):
        x = euler_step(x, velocity(x, t[None].clone()).to(x.dtype), t, s)
    return x


@cache  # a copy of numbers to the device would wait for it, and could not be recorded in a graph
@torch.inference_mode(False)  # or later calls with gradients could not use the tensor
def _times_on(device: torch.device, steps: int, power: float) -> Tensor:
    return sampling_times(steps, power).to(device)
