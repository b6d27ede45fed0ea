"""The rows beside samples: what a generator has to beat, and what it can reach at most.

- `noise`: latents of normal noise, with mean and deviation of each channel, decoded;
- `untrained`: samples of the generator before its first step;
- `training`: training images, encoded and decoded: the decoder's own share of the distance.
"""

# N images, C latent channels, h w latent cells

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
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
    chosen = _chosen(images, labels)
    rows: dict[str, tuple[Latents, list[int]]] = {
        NOISE: (partial(_noise, generator, generate.seed), labels),
        UNTRAINED: (partial(_samples, untrained, labels, generate), labels),
        TRAINING: (partial(_encoded, images, chosen), [images[row]["label"] for row in chosen]),
    }
    for name, (make, own) in rows.items():
        parts = partial(_decoded, make, own, decode, device, generate.batch_size)
        write_shards(folder, name, len(own), parts, title)
    return folder


def _decoded(
    make: Latents,
    labels: Sequence[int],
    decode: Decode,
    device: torch.device,
    batch: int,
    numbers: range,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    parts = []
    for part in pieces(numbers, batch):
        own = torch.tensor([labels[number] for number in part])
        parts.append({"image": to_levels(decode(make(part).to(device))), "label": own})
        advance(len(part))
    return joined(parts)


def _noise(generator: Generator, seed: int, numbers: range) -> Tensor:
    config = generator.config
    shape = (config.latent_channels, config.grid, config.grid)
    return generator.denormalize(draw_latent_noise([seed + number for number in numbers], shape))


def _samples(untrained: Generator, labels: Sequence[int], generate: GenerateParameters, numbers: range) -> Tensor:
    own = torch.tensor([labels[number] for number in numbers])
    return sample_latents(untrained, [generate.seed + number for number in numbers], own, generate)


def _encoded(images: LatentDataset, chosen: Sequence[int], numbers: range) -> Tensor:
    return torch.stack([images[chosen[number]]["z"] for number in numbers])


def _chosen(images: LatentDataset, labels: Sequence[int]) -> list[int]:
    """Returns as many training images as samples, of the same classes, spread evenly; fewer where there are too few."""
    if labels[0] < 0:  # no classes
        return _spread(range(len(images)), len(labels))
    rows: dict[int, list[int]] = defaultdict(list)
    for row in range(len(images)):
        rows[images[row]["label"]].append(row)
    return sorted(row for label, count in Counter(labels).items() for row in _spread(rows[label], count))


def _spread(rows: Sequence[int], count: int) -> list[int]:
    count = min(count, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]
