"""The speed of generation: sampling of latents, their decoding, and both together, for latents of several kinds.

A step of the sampler costs the same at any time, so a few steps are timed and counted up.
"""

# B batch, C latent channels, F down-scale, K steps

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.baselines import KLDecoder, KLDecoderConfig, count_parameters
from ssdd.benchmarking.cost import peak_memory
from ssdd.benchmarking.decoder_speed import fill
from ssdd.benchmarking.timing import time_sides
from ssdd.generation.generator import Generator, generator_config
from ssdd.generation.latent_sampler import draw_latent_noise, guided, integrate, sampling_times
from ssdd.generation_parameters import SamplingParameters, SpeedOfSpaces
from ssdd.progress import Show, bar
from ssdd_decoder import Decoder, decoder_config
from ssdd_encoder import LatentStatistics

KL = "KL-VAE"


@dataclass(frozen=True)
class TimedDecoder:
    """A way to decode the latents of a generator.

    Args:
        name: of the row.
        steps: of the decoder.
        decode: latents (B, C, h, w) -> images (B, 3, H, W).
        network: for its number of parameters.
    """

    name: str
    steps: int
    decode: Callable[[Tensor], Tensor]
    network: nn.Module


@torch.no_grad()
def measure_sampling(
    generator: Generator,
    decoders: list[TimedDecoder],
    sampling: SamplingParameters,
    counts: Sequence[int],
    batch: int,
    rounds: int,
    device: torch.device,
    timed_steps: int = 2,
    advance: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Times sampling and each decoder, alternated.

    Args:
        generator: on the device.
        decoders: on the device, of the generator's latents.
        sampling: method and guidance.
        counts: numbers of sampler steps that the times are for.
        batch: B.
        rounds: timings of each side.
        device: of the networks.
        timed_steps: of the sampler; its time for any number of steps follows from theirs.
        advance: called after each round.

    Returns:
        a row for each decoder and number of steps: `sampling_seconds`, `decoding_seconds` and `total_seconds` of an
        image, images per second of the three, and the peak memory of both parts beyond the weights.
    """
    config = generator.config
    noise = draw_latent_noise(range(batch), (config.latent_channels, config.grid, config.grid)).to(device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    velocity = guided(generator, labels, sampling.guidance)
    sample = partial(integrate, velocity, noise, sampling_times(timed_steps), sampling.method)
    latents = generator.denormalize(noise)
    sides: Mapping[str, Callable[[], object]] = {
        "sampling": sample,
        **{f"{decoder.name} {decoder.steps}": partial(decoder.decode, latents) for decoder in decoders},
    }
    timings = time_sides(sides, "sampling", rounds, device, advance)
    one_call = timings["sampling"].summary()["seconds"] / _calls(sampling.method, timed_steps) / batch
    about = {
        "tokens": (config.grid // config.patch_size) ** 2,
        "method": sampling.method,
        "guidance": sampling.guidance,
        "batch": batch,
        "generator_parameters": count_parameters(generator),
        "sampling_peak_bytes": peak_memory(sample, device),
    }
    rows = []
    for decoder in decoders:
        decoding = timings[f"{decoder.name} {decoder.steps}"].summary()["seconds"] / batch
        peak = {"decoding_peak_bytes": peak_memory(partial(decoder.decode, latents), device)}
        for steps in counts:
            seconds = one_call * _calls(sampling.method, steps)
            rows.append(_row(decoder, seconds, decoding) | {"sampler_steps": steps} | about | peak)
    return rows


def _row(decoder: TimedDecoder, sampling: float, decoding: float) -> dict[str, Any]:
    """Returns the figures of a decoder, from the seconds that sampling and decoding take for an image."""
    return {
        "decoder": decoder.name,
        "decoder_steps": decoder.steps,
        "decoder_parameters": count_parameters(decoder.network),
        "sampling_seconds": sampling,
        "decoding_seconds": decoding,
        "total_seconds": sampling + decoding,
        "sampling_images_per_second": 1 / sampling,
        "decoding_images_per_second": 1 / decoding,
        "images_per_second": 1 / (sampling + decoding),
    }


def measure_spaces(speed: SpeedOfSpaces, device: torch.device, progress: Show = True) -> list[dict[str, Any]]:
    """Times one transformer on latents of several spaces, each with SSDD's decoder and, for f8, the KL-VAE's.

    Weights are random: speed does not depend on them.

    Returns:
        the rows of `measure_sampling`, with `latents`, `generator`, `patch_size`, `pixels` and `dtype`.
    """
    rows = []
    with bar("generation", speed.rounds * len(speed.latents), progress) as advance:
        for space in speed.latents:
            downscale, channels = (int(part) for part in space[1:].split("c"))
            about: dict[str, Any] = {"latents": space, "generator": speed.size, "patch_size": speed.patch_size}
            about |= {"pixels": speed.pixels, "dtype": speed.dtype}
            try:
                found = _measure_space(speed, downscale, channels, device, advance)
            except torch.OutOfMemoryError:  # the others are measured all the same
                logging.getLogger(__name__).warning("left out, since the device's memory is too small: %s", space)
                found = []
            rows += [{**about, **row} for row in found]
            gc.collect()
    return rows


def _measure_space(
    speed: SpeedOfSpaces, downscale: int, channels: int, device: torch.device, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    dtype = getattr(torch, speed.dtype)
    cells = speed.pixels // downscale
    unit = LatentStatistics(torch.zeros(channels).double(), torch.ones(channels).double(), 0.0, 1.0, 1)
    config = generator_config(speed.size, speed.patch_size, (channels, cells, cells), downscale, unit, speed.classes)
    generator = Generator(config).to(device, dtype).eval()
    shape = decoder_config(speed.decoder, latent_channels=channels, downscale=downscale)
    ours = fill(Decoder(shape)).to(device, dtype).to(memory_format=torch.channels_last).eval()
    noise = torch.randn(speed.batch_size, 3, speed.pixels, speed.pixels).to(device)
    decoders = [
        TimedDecoder("SSDD", steps, partial(ours.decode, steps=steps, noise=noise), ours)
        for steps in speed.decoder_steps
    ]
    if speed.kl_width:
        theirs = KLDecoder(KLDecoderConfig(width=speed.kl_width, latent_channels=channels, downscale=downscale))
        theirs = theirs.to(device, dtype).to(memory_format=torch.channels_last).eval()
        decoders.append(TimedDecoder(KL, 1, lambda z: theirs(z.to(dtype)), theirs))
    return measure_sampling(
        generator, decoders, speed, [speed.steps], speed.batch_size, speed.rounds, device, speed.timed_steps, advance
    )


def _calls(method: str, steps: int) -> int:
    """Returns how often the sampler calls the network."""
    return steps if method == "euler" else 2 * steps - 1
