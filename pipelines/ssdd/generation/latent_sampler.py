"""Sampling of latents: noise to latent, along a generator's velocity, by Euler's or Heun's method.

The grid of times is that of diffusers' schedulers for flow matching: K times from 0.999 down, evenly spaced or shifted
towards noise (Esser et al., 2024), and 0. There Euler's method is diffusers' DPM-Solver++ of order 1, step by step.
"""

# B batch, C latent channels, h w latent cells, K steps

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssdd.generation.generator import TIME_STEPS, Generator
from ssdd.generation_parameters import SamplingParameters
from ssdd_decoder.flow import draw_noise, euler_step

Velocity = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, C, h, w) and t (1,), shared by all -> the velocity (B, C, h, w)."""


def sampling_times(steps: int, shift: float = 1.0) -> list[float]:
    """Times t_0 = 0.999 > t_1 > ... > t_K = 0.

    Args:
        steps: K.
        shift: above 1, times lie nearer to noise: s t / (1 + (s - 1) t).
    """
    # In float64 and in this order of operations, as diffusers does: a time just below a whole thousandth would be
    # rounded down to another one.
    even = 1.0 - np.linspace(1, 1 / TIME_STEPS, steps + 1)
    return [float(t) for t in np.flip(shift * even / (1 + (shift - 1) * even))[:-1]] + [0.0]


def integrate(velocity: Velocity, noise: Tensor, times: Sequence[float], method: str) -> Tensor:
    """Follows a velocity from noise to a latent.

    Args:
        velocity: of the generator.
        noise: (B, C, h, w), the point at the first time.
        times: falling, the last is 0.
        method: `euler`, one call of the network a step, or `heun`, two, but one in the last step (Karras et al., 2022).

    Returns:
        (B, C, h, w).
    """
    x = noise
    for t, s in pairwise(times):
        v = velocity(x, _time(t, x)).to(x.dtype)
        ahead = euler_step(x, v, t, s)
        if method == "heun" and s > 0:
            v = (v + velocity(ahead, _time(s, x)).to(x.dtype)) / 2
            ahead = euler_step(x, v, t, s)
        x = ahead
    return x


def guided(generator: Generator, labels: Tensor, guidance: float) -> Velocity:
    """The velocity of a generator with classifier-free guidance (Ho and Salimans, 2022).

    Args:
        generator: with classes, unless the guidance is 1.
        labels: (B,), see `Generator.velocity`.
        guidance: w in v = v_none + w (v_class - v_none); 1 is the class alone, at half the cost.

    Raises:
        ValueError: the generator has no classes to be guided by.
    """
    if guidance == 1:
        return lambda x, t: generator.velocity(x, t, labels)
    if not generator.config.classes:
        raise ValueError(f"expected guidance 1 for a generator without classes, got {guidance}: leave it out")
    both = torch.cat([labels, torch.full_like(labels, generator.no_label)])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        with_class, without = generator.velocity(torch.cat([x, x]), t, both).chunk(2)
        return without + guidance * (with_class - without)

    return velocity


@torch.no_grad()
def sample_latents(generator: Generator, seeds: Sequence[int], labels: Tensor, sampling: SamplingParameters) -> Tensor:
    """Draws latents; each follows from its seed and label alone, apart from rounding by the shape of a batch.

    Args:
        generator: on its device.
        seeds: B seeds of generators, one a latent.
        labels: (B,), -1 for none.
        sampling: method, steps, guidance, shift.

    Returns:
        (B, C, h, w), float32, as a decoder takes them.

    Raises:
        ValueError: a label is none of the generator's, or it has no classes to be guided by.
    """
    check_labels(generator, labels)
    config = generator.config
    noise = draw_latent_noise(seeds, (config.latent_channels, config.grid, config.grid)).to(generator.device)
    velocity = guided(generator, generator.known_labels(labels.to(generator.device)), sampling.guidance)
    z = integrate(velocity, noise, sampling_times(sampling.steps, sampling.shift), sampling.method)
    return generator.denormalize(z)


def draw_latent_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Draws (B, *shape) on the CPU, row by row what `torch.Generator().manual_seed(seed)` gives in a pipeline."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return draw_noise((len(seeds), *shape), torch.empty(0), generators)


def check_labels(generator: Generator, labels: Tensor) -> None:
    """Refuses labels that the generator does not have.

    Raises:
        ValueError: one is none of its classes.
    """
    classes = generator.config.classes
    if bool((labels >= max(classes, 0)).any()) or bool((labels < -1).any()):
        known = f"from 0 to {classes - 1}" if classes else "none, for it was trained without"
        raise ValueError(f"expected classes of the generator ({known}), got {sorted(set(labels.tolist()))[:5]}")


def _time(t: float, like: Tensor) -> Tensor:
    # In float64: 0.3 in float32, times 1000, is just below 300.
    return torch.tensor([t], dtype=torch.float64, device=like.device)
