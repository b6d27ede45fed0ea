"""Held-out images through encoder and decoder: shared by the periodic and the final evaluation."""

# B batch, S side in pixels

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.noise import sample_noise, sample_seeds
from ssdd.upscaling import shrink


def image_noise(seed: int, images: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
    """The starting noise of each image: (B, *shape), drawn on the CPU so that it is the same on every device."""
    return sample_noise(sample_seeds(seed, "evaluation", 0, images), shape).to(device)


@torch.no_grad()
def reconstruct(
    model: SSDD, x: Tensor, images: Sequence[int], steps: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Encodes images once (the posterior's mode) and decodes them with each number of steps.

    A model that enlarges encodes smaller copies of the images, so that its results have the images' size.

    The noise of an image depends on the seed and its number alone, not on how images are batched.

    Args:
        model: encoder and decoder.
        x: (B, 3, S, S) in [-1, 1].
        images: B numbers in the data set.
        steps: numbers of sampler steps.
        seed: of the noise.

    Yields:
        number of steps, and images (B, 3, S, S), float32, not clamped.

    Raises:
        ValueError: a latent or an image is not finite.
    """
    z = model.encode(shrink(x, model.upscale)).mode()
    noise = image_noise(seed, images, x.shape[1:], x.device)
    for count in steps:
        yield count, model.decode(z, steps=count, noise=noise, check_finite=True).float()
