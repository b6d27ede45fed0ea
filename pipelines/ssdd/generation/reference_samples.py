"""The rows beside samples: what a generator has to beat, and what it can reach at most.

- `noise`: latents of normal noise, with mean and deviation of each channel, decoded;
- `untrained`: samples of the generator before its first step;
- `training`: training images, encoded and decoded: the decoder's own share of the distance.
"""

# N images, C latent channels, h w latent cells

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ssdd.generation.drawing import Decode, class_labels, to_levels
from ssdd.generation.generator import Generator
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.generation.latent_sampler import draw_latent_noise, sample_latents
from ssdd.generation.sample_shards import joined, pieces, write_shards
from ssdd.generation_parameters import GenerateParameters

NOISE, UNTRAINED, TRAINING = "noise", "untrained", "training"

Latents = Callable[[range], Tensor]
"""Numbers of images -> latents as the encoder makes them."""


def write_reference_samples(
    folder: Path,
    generator: Generator,
    latents: Path,
    decode: Decode,
    generate: GenerateParameters,
    init_seed: int,
    device: torch.device,
    title: str | None,
) -> Path:
    """Writes as many images of each row as there are samples.

    Args:
        folder: see `write_shards`; its files are `noise-*`, `untrained-*` and `training-*`.
        generator: the trained one.
        latents: folder of the training latents.
        decode: of latents.
        generate: number, seeds and sampler, as for the samples.
        init_seed: of the untrained generator's weights, that of the training.
        device: of the networks.
        title: of a progress bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        untrained = Generator(generator.config).to(device).eval()
    images = LatentDataset(latents, split="train", latent="mode", normalize=False)
    labels = class_labels(generator.config, generate.count, generate.classes)
    rows: dict[str, tuple[Latents, int]] = {
        NOISE: (partial(_noise, generator, generate.seed), generate.count),
        UNTRAINED: (partial(_samples, untrained, labels, generate), generate.count),
        TRAINING: (partial(_encoded, images, generate.count), min(generate.count, len(images))),
    }
    for name, (make, count) in rows.items():
        write_shards(folder, name, count, partial(_decoded, make, decode, device, generate.batch_size), title)
    return folder


def _decoded(
    make: Latents, decode: Decode, device: torch.device, batch: int, numbers: range, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    parts = []
    for part in pieces(numbers, batch):
        parts.append({"image": to_levels(decode(make(part).to(device)))})
        advance(len(part))
    return joined(parts)


def _noise(generator: Generator, seed: int, numbers: range) -> Tensor:
    config = generator.config
    shape = (config.latent_channels, config.grid, config.grid)
    return generator.denormalize(draw_latent_noise([seed + number for number in numbers], shape))


def _samples(untrained: Generator, labels: list[int], generate: GenerateParameters, numbers: range) -> Tensor:
    own = torch.tensor([labels[number] for number in numbers])
    return sample_latents(untrained, [generate.seed + number for number in numbers], own, generate)


def _encoded(images: LatentDataset, count: int, numbers: range) -> Tensor:
    # Spread over the data set: neighbours of the embedded sample are of one kind.
    count = min(count, len(images))
    return torch.stack([images[number * len(images) // count]["z"] for number in numbers])
