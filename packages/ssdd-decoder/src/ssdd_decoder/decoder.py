"""Latent to image: the decoder that users load, call and save."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F pixels

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ssdd_decoder import checkpoint
from ssdd_decoder.config import SIZES, DecoderConfig, decoder_config
from ssdd_decoder.flow import draw_noise
from ssdd_decoder.sampler import euler_sample
from ssdd_decoder.unet import UNet

CHECKPOINT_NAME = "decoder.safetensors"
KIND = "decoder"


class Decoder(UNet):
    """Decodes latents into images by flow matching: with one step once distilled, with several before.

    Args:
        config: a `DecoderConfig`, or a size such as "M" (for f8c4 latents; see `decoder_config` for others).
    """

    def __init__(self, config: DecoderConfig | str = "M") -> None:
        super().__init__(decoder_config(config) if isinstance(config, str) else config)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
    ) -> Tensor:
        """Decodes latents.

        Args:
            z: (B, C, h, w), floating point, as the encoder gives it (not normalised).
            steps: Euler steps; 1 for distilled decoders, about 8 for others.
            noise: (B, 3, H, W), the start at t = 1; drawn when absent.
            generator: for the noise: one, or one per image, which makes each image independent of its batch.
            check_finite: refuse NaN and infinity in z, noise and the result (waits for the device).

        Returns:
            images (B, 3, H, W), about [-1, 1] but not clamped, in float32 (float64 for a float64 decoder), computed in
            the weights' dtype.

        Raises:
            ValueError: a shape, dtype, device, the steps or (when checked) a value is not as described.
        """
        weight = self.conv_in.weight
        self._check_latent(z)
        shape = (z.shape[0], 3, z.shape[2] * self.config.downscale, z.shape[3] * self.config.downscale)
        if noise is None:
            noise = draw_noise(shape, weight, generator)
        elif generator is not None:
            raise ValueError("expected noise or a generator to draw it from, got both: drop one")
        self._check_noise(noise, shape)
        if check_finite:
            _check_finite("z", z)
            _check_finite("noise", noise)
        with torch.autocast(weight.device.type, enabled=False):
            conditioning = self.condition(z.to(weight.dtype))
            start = noise.to(torch.promote_types(weight.dtype, torch.float32))
            image = euler_sample(lambda x, t: self.predict(x, t, conditioning).velocity, start, steps)
        if check_finite:
            _check_finite("the decoded image", image)
        return image

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Writes weights and configuration as one safetensors file, whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, which gets `decoder.safetensors`.

        Returns:
            the file written.
        """
        file = checkpoint.destination(path, CHECKPOINT_NAME)
        return checkpoint.write(file, self.state_dict(), {KIND: asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], config: DecoderConfig | str | None = None, downscale: int | None = None
    ) -> "Decoder":
        """Loads a decoder, in evaluation mode.

        Args:
            source: a safetensors file (a decoder alone, or encoder and decoder together), a folder that holds one, or a
                hub id (`owner/name`).
            config: what the file must hold, as configuration or size; by default what its header says, else what its
                shapes tell.
            downscale: F, for files whose header does not say and that hold no encoder; 8 by default.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds something else.
        """
        file = checkpoint.resolve(source, CHECKPOINT_NAME)
        contents = checkpoint.read(file)
        return cls.from_contents(contents, config, downscale)

    @classmethod
    def from_contents(
        cls, contents: checkpoint.Contents, config: DecoderConfig | str | None = None, downscale: int | None = None
    ) -> "Decoder":
        """Makes the decoder of a checkpoint that has been read; see `from_pretrained`."""
        tensors = contents.select(KIND)
        held = held_config(contents, downscale)
        if isinstance(config, str):
            latent = held or decoder_config(config)
            config = decoder_config(config, latent_channels=latent.latent_channels, downscale=latent.downscale)
        wanted = config or held
        if wanted is None:
            raise checkpoint.CheckpointError(f"{contents.file} holds no decoder that is known here: pass its config")
        with torch.device("meta"):
            decoder = cls(wanted)
        checkpoint.fill(decoder, tensors, contents.file, asked=describe(wanted), held=describe(held) if held else None)
        return decoder.to(memory_format=torch.channels_last).eval()

    def _check_latent(self, z: Tensor) -> None:
        channels, weight = self.config.latent_channels, self.conv_in.weight
        if z.ndim != 4 or z.shape[1] != channels or 0 in z.shape:
            raise ValueError(
                f"expected z with {channels} channels, of shape (B, {channels}, h, w), got {tuple(z.shape)}: "
                "load the encoder this decoder was trained with"
            )
        if not z.is_floating_point():
            raise ValueError(f"expected floating point latents, got {z.dtype}: convert them with z.float()")
        if z.device != weight.device:
            raise ValueError(f"expected latents on {weight.device}, got {z.device}: move them with z.to(...)")

    def _check_noise(self, noise: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(noise.shape) != shape:
            raise ValueError(f"expected noise of shape {shape} for these latents, got {tuple(noise.shape)}")
        if not noise.is_floating_point() or noise.device != self.conv_in.weight.device:
            raise ValueError(
                f"expected floating point noise on {self.conv_in.weight.device}, got {noise.dtype} on {noise.device}"
            )


def describe(config: DecoderConfig) -> str:
    """Says what a configuration is, for messages: `decoder S (14,057,059 parameters)`."""
    name = next((size for size, known in SIZES.items() if _same_shape(known, config)), "of its own configuration")
    with torch.device("meta"):
        count = sum(p.numel() for p in Decoder(config).parameters())
    latent = "" if config.latent_channels == 4 else f" for {config.latent_channels} latent channels"
    return f"decoder {name}{latent} ({count:,} parameters)"


def held_config(contents: checkpoint.Contents, downscale: int | None = None) -> DecoderConfig | None:
    """What a file holds: what its header says, else the published size with these shapes; None if there is none."""
    if KIND in contents.config:
        return checkpoint.parse_config(DecoderConfig, contents.config[KIND], contents.file)
    tensors = contents.select(KIND)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    blocks = len({key.split(".")[2] for key in shapes if key.startswith("mid_block.transformer_blocks.")})
    latent_channels = shapes.get("conv_in.weight", (0, 0))[1] - 3
    if latent_channels < 1:
        return None
    levels = len({key.split(".")[2] for key in contents.tensors if key.startswith("encoder.down.")})
    for size, known in SIZES.items():
        first, last = (shapes.get(f"down_blocks.{i}.resnets.0.conv2.bias") for i in (0, len(known.widths) - 1))
        if (first, last, blocks) == ((known.widths[0],), (known.widths[-1],), known.transformer_blocks):
            scale = downscale or (2 ** (levels - 1) if levels else 8)
            return decoder_config(size, latent_channels=latent_channels, downscale=scale)
    return None


def _same_shape(a: DecoderConfig, b: DecoderConfig) -> bool:
    return a == replace(b, latent_channels=a.latent_channels, downscale=a.downscale)


def _check_finite(name: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise ValueError(
            f"expected {name} to be finite, got NaN or infinity: check where it comes from, or decode in float32"
        )
