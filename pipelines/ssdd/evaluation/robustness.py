"""Decoders on latents with noise: the quality that is left of what a generator, never exact, gives them."""

# B batch, C latent channels, h w latent cells, S side in pixels

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssdd.evaluation.compared import ComparedDecoder, place
from ssdd.evaluation.final import Evaluated, Measurement, Row, measure
from ssdd.evaluation.latent_statistics import statistics_of
from ssdd.evaluation.passes import image_noise
from ssdd.evaluation.reference_statistics import image_protocol
from ssdd.noise import sample_noise, sample_seeds
from ssdd.number_formats import number_format
from ssdd.processes import choose_device, join_group, launch, use_threads


@dataclasses.dataclass(frozen=True)
class NoisyRow:
    """The figures of one decoder at one level of noise.

    Args:
        decoder: name.
        level: of the noise, in standard deviations of each channel.
        evaluated: figures and pictures.
    """

    decoder: str
    level: float
    evaluated: Evaluated


def evaluate_robustness(decoder: ComparedDecoder, levels: Sequence[float], measurement: Measurement) -> list[NoisyRow]:
    """Adds noise to the latent of each image, decodes it, and measures the result against the image.

    The latent is z + level * d * n: z the posterior's mode, d the deviation of its channel over the same images, n a
    draw from N(0, 1) that follows from the seed and the image's number. All levels and all decoders of one latent space
    get the same n.

    Returns:
        a row for each level and number of steps; none except on rank 0.

    Raises:
        ValueError: the decoder cannot be read, or the images do not fit it.
    """
    use_threads(measurement.runtime)
    return launch(_evaluate, measurement.runtime.processes, decoder, list(levels), measurement)


def _evaluate(decoder: ComparedDecoder, levels: list[float], measurement: Measurement) -> list[NoisyRow]:
    parameters, runtime = measurement.parameters, measurement.runtime
    device = choose_device(runtime.device, join_group()[0])
    model = place(decoder.open(), device, number_format(parameters.precision, device))
    statistics = statistics_of(
        model.model.encoder, measurement.dataset, parameters.batch_size, runtime.workers, upscale=model.times
    )
    deviation = statistics.std.float().to(device).view(1, -1, 1, 1)
    names = {_name(decoder, level): level for level in levels}

    @torch.no_grad()
    def decode(x: Tensor, numbers: list[int]) -> Iterator[tuple[Row, Tensor]]:
        z = model.encode(x).mode().float()
        # On the CPU, so that it is the same on every device.
        draws = sample_noise(sample_seeds(parameters.noise_seed, "latent noise", 0, numbers), z.shape[1:]).to(device)
        noise = image_noise(parameters.noise_seed, numbers, x.shape[1:], x.device)
        for name, level in names.items():
            for count in decoder.steps:
                decoded = model.decode(z + level * deviation * draws, count, noise, check_finite=True)
                yield (name, count), decoded.float()

    protocol = dataclasses.replace(
        image_protocol(measurement.dataset, parameters.im_size),
        noise_seed=parameters.noise_seed,
        dtype=parameters.precision,
    )
    protocols = {
        (name, count): dataclasses.replace(
            protocol, steps=count, model=f"sha256:{decoder.content}, latent noise {level:g}"
        )
        for name, level in names.items()
        for count in decoder.steps
    }
    found = measure(decode, protocols, measurement, f"noisy latents: {decoder.name}")
    return [NoisyRow(decoder.name, names[part.name], part) for part in found]


def _name(decoder: ComparedDecoder, level: float) -> str:
    return f"{decoder.name}, latent noise {level:g}"
