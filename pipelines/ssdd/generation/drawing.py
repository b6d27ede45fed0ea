"""Drawing of samples: latents of a generator, and the images that a decoder makes of them."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F, N samples

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.baselines import KLAutoencoder, KLDecoderConfig
from ssdd.encoders import weights_sha256
from ssdd.generation.generator import ENCODER_KEY, Generator, GeneratorConfig
from ssdd.generation.latent_sampler import sample_latents
from ssdd.generation.sample_shards import joined, pieces, read_rows, write_shards
from ssdd.generation_parameters import SamplingParameters
from ssdd.integrations.fixed_noise import fixed_noise
from ssdd_decoder import Decoder, DecoderConfig
from ssdd_decoder.checkpoint import read_header
from ssdd_metrics import to_uint8

LATENTS, IMAGES = "latents", "images"  # names of files; those of further numbers of steps follow from them

Decode = Callable[[Tensor], Tensor]
"""Latents (B, C, h, w) as the encoder makes them -> images (B, 3, H, W), about [-1, 1]."""


def draw_shards(
    folder: Path,
    generator: Generator,
    seeds: range,
    labels: Sequence[int],
    sampling: SamplingParameters,
    batch_size: int,
    title: str | None = None,
    name: str = LATENTS,
) -> Path:
    """Draws a latent for each seed and writes them: `z`, `label`, `seed`.

    Args:
        folder: see `write_shards`.
        generator: on its device.
        seeds: N seeds.
        labels: N classes, -1 for none.
        sampling: method, steps, guidance, shift.
        batch_size: latents at a time.
        title: of a progress bar.
        name: of the files.
    """

    def make(numbers: range, advance: Callable[[int], None]) -> dict[str, Tensor]:
        parts = []
        for part in pieces(numbers, batch_size):
            some = torch.tensor([labels[number] for number in part])
            own = [seeds[number] for number in part]
            z = sample_latents(generator, own, some, sampling).cpu()
            parts.append({"z": z, "label": some, "seed": torch.tensor(own)})
            advance(len(part))
        return joined(parts)

    return write_shards(folder, name, len(seeds), make, title)


def decode_shards(
    folder: Path,
    latents: Path,
    count: int,
    decode: Decode,
    device: torch.device,
    batch_size: int,
    title: str | None,
    names: tuple[str, str] = (LATENTS, IMAGES),
) -> Path:
    """Decodes the latents of `draw_shards` and writes `image` (uint8), `label` and `seed`; names are of the files."""

    def make(numbers: range, advance: Callable[[int], None]) -> dict[str, Tensor]:
        parts = []
        for part in pieces(numbers, batch_size):
            z, label, seed = (
                read_rows(latents, names[0], key, part.start, part.stop) for key in ("z", "label", "seed")
            )
            parts.append({"image": to_levels(decode(z.to(device))), "label": label, "seed": seed})
            advance(len(part))
        return joined(parts)

    return write_shards(folder, names[1], count, make, title)


def with_steps(name: str, steps: int) -> str:
    """Returns the name of the files of another number of sampler steps."""
    return f"{name}_of_{steps}_steps"


def to_levels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W), about [-1, 1] -> uint8, on the CPU."""
    return to_uint8(((images.float() + 1) / 2).clamp(0, 1)).cpu()


@torch.no_grad()
def decode_latents(model: SSDD | KLAutoencoder | Decoder, z: Tensor, steps: int) -> Tensor:
    """Decodes latents (B, C, h, w) from the one noise that `AutoencoderSSDD` has too: (B, 3, H, W).

    The same latent gives the same image, whatever its place in a batch.
    """
    config = model.config if isinstance(model, Decoder) else model.decoder.config
    height, width = (side * config.downscale for side in z.shape[2:])
    noise = fixed_noise(z, height, width).expand(len(z), -1, -1, -1)
    return model.decode(z, steps=steps, noise=noise, check_finite=True)


def check_decoder(generator: GeneratorConfig, decoder: DecoderConfig | KLDecoderConfig | None, file: Any) -> None:
    """Refuses a decoder of other latents than the generator's.

    Args:
        generator: of the generator.
        decoder: of the file; None where it holds none.
        file: for the message.

    Raises:
        ValueError: the latent spaces differ.
    """
    own = (generator.downscale, generator.latent_channels)
    if decoder is None or (decoder.downscale, decoder.latent_channels) != own:
        got = "none" if decoder is None else f"one of f{decoder.downscale}c{decoder.latent_channels}"
        raise ValueError(
            f"expected a decoder of the generator's latents, f{own[0]}c{own[1]}, in {file}, got {got}: name a decoder "
            "on the same encoder"
        )


def is_of_its_encoder(generator: str | Path, model: SSDD | KLAutoencoder) -> bool:
    """Whether the encoder beside a decoder is that of a generator's latents, to the bit; True where no file tells."""
    known = read_header(Path(generator)).metadata.get(ENCODER_KEY)
    own = json.loads(known).get("weights_sha256") if known else None
    return own is None or own == weights_sha256(model.encoder)


def class_labels(config: GeneratorConfig, count: int, classes: Sequence[int] = ()) -> list[int]:
    """Returns a class for each sample: the given ones, or all, in turn; -1 where the generator has none.

    Raises:
        ValueError: the generator has no such class.
    """
    if unknown := [label for label in classes if not 0 <= label < config.classes]:
        known = f"from 0 to {config.classes - 1}" if config.classes else "none, for it was trained without"
        raise ValueError(f"expected classes of the generator ({known}), got {unknown}")
    turn = list(classes) or list(range(config.classes)) or [-1]
    return [turn[number % len(turn)] for number in range(count)]


def open_decoder(file: str | Path, kind: Literal["ssdd", "kl"], device: torch.device) -> SSDD | KLAutoencoder:
    """Loads encoder and decoder onto the device, in the layout that convolutions are fast in."""
    read: Any = {"ssdd": SSDD, "kl": KLAutoencoder}[kind]
    model: SSDD | KLAutoencoder = read.from_pretrained(file)
    return model.to(device).to(memory_format=torch.channels_last)


def decoded_by(model: SSDD | KLAutoencoder, steps: int) -> Decode:
    """Returns `decode_latents` for one model and number of steps."""
    return partial(decode_latents, model, steps=steps)
