"""The configuration of an `AutoencoderSSDD`: its decoder's shape, and the entries that follow from both networks."""

import json
from dataclasses import asdict
from typing import Any

from ssdd.encoders import AnyEncoderConfig
from ssdd_decoder import DecoderConfig, decoder_config


def decoder_shape(decoder: dict[str, Any] | str, encoder: AnyEncoderConfig, upscale: int | None) -> DecoderConfig:
    """Returns the configuration of a decoder, which is given by its size or its fields.

    Args:
        decoder: the size, for the encoder's latents, or the fields.
        encoder: its configuration.
        upscale: s; None for that of the fields, or 1.

    Raises:
        ValueError: no decoder has this configuration, or its fields state another s.
    """
    if isinstance(decoder, str):
        space = {"latent_channels": encoder.latent_channels, "downscale": encoder.downscale}
        return decoder_config(decoder, **space, upscale=1 if upscale is None else upscale)
    shape = DecoderConfig(**decoder)
    if upscale not in (None, shape.upscale):
        raise ValueError(
            f"expected upscale={shape.upscale}, which this decoder was trained for, got {upscale}: leave it out, or "
            "train a decoder with model.upscale"
        )
    return shape


def derived_entries(encoder: AnyEncoderConfig, decoder: DecoderConfig) -> dict[str, Any]:
    """Entries of the configuration that follow from the networks; JSON-able, so that they are the same when loaded."""
    levels = encoder.downscale.bit_length()
    if encoder.downscale != 2 ** (levels - 1):
        raise ValueError(
            f"expected an encoder whose F is a power of two, got {encoder.name}: pipelines compute F as one"
        )
    # Pipelines want to know only how many there are.
    widths = [encoder.widths[min(level, len(encoder.widths) - 1)] for level in range(levels)]
    return {
        "encoder_config": json.loads(json.dumps(asdict(encoder))),
        "decoder_config": json.loads(json.dumps(asdict(decoder))),
        "latent_channels": encoder.latent_channels,
        "block_out_channels": widths,
        "encoder_block_out_channels": widths,
        "upscale": decoder.upscale,
    }
