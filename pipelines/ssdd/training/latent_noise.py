"""Noise on the latents that a decoder trains on, for those that a generator makes: they are never exact."""

# B batch, C latent channels, h w latent cells

import os
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import make_loader
from ssdd.data.step_sampler import StepSampler
from ssdd.encoders import AnyEncoder
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import RuntimeConfig, StageParameters
from ssdd.processes import choose_device
from ssdd.upscaling import shrink
from ssdd_encoder import LatentAccumulator

MEASURED_IMAGES = 512  # for the deviation of each channel: to within a few percent, in seconds


def add_latent_noise(z: Tensor, deviation: Tensor, stage: StageParameters, step: int, images: Sequence[int]) -> Tensor:
    """Returns z + s d n: n ~ N(0, 1) by element, s ~ U(0, `stage.latent_noise`) by image, d the channel's deviation.

    Both draws follow from the stage's seed, the step and the image's number alone.

    Args:
        z: (B, C, h, w).
        deviation: d, (C,).
        stage: the largest s, and the seed.
        step: finished optimiser steps.
        images: B numbers.
    """
    if stage.latent_noise == 0:
        return z
    seeds = sample_seeds(stage.seed, "latent noise level", step, images)
    levels = torch.tensor([stage.latent_noise * seed / 2**63 for seed in seeds], device=z.device)
    noise = sample_noise(sample_seeds(stage.seed, "latent noise", step, images), z.shape[1:], z.device)
    return z + levels.view(-1, 1, 1, 1) * deviation.to(z.device).view(1, -1, 1, 1) * noise


@torch.no_grad()
def channel_deviation(
    encoder: AnyEncoder, images: ImageDataset, stage: StageParameters, runtime: RuntimeConfig, upscale: int = 1
) -> Tensor | None:
    """Measures the standard deviation of each channel over training images as the stage sees them; None without noise.

    Every process measures it itself, on the same images: a random choice, which the seed decides.

    Args:
        encoder: frozen; it is back on its device afterwards.
        images: of the training.
        stage: whether there is noise, batch size, seed.
        runtime: device.
        upscale: the encoder gets copies of the images that are so many times smaller.

    Returns:
        (C,), float32, on the CPU.
    """
    if stage.latent_noise == 0:
        return None
    before = next(encoder.parameters()).device
    device = choose_device(runtime.device, int(os.environ.get("LOCAL_RANK", "0")))
    encoder.to(device)
    sampler = StepSampler(len(images), stage.eval_batch_size, seed=stage.seed, drop_last=False)
    sums = LatentAccumulator(encoder.config.latent_channels)
    for batch in islice(make_loader(images, sampler), -(-MEASURED_IMAGES // stage.eval_batch_size)):
        sums.update(encoder(shrink(batch["image"].to(device), upscale)).mode())
    encoder.to(before)
    return sums.compute().std.float()
