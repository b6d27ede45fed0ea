"""Decoders that SSDD is compared with: the KL-VAE's, and SSDD's own network called once. Neither sees any noise.

The network of the KL-VAE's decoder is diffusers' own class (Rombach et al., 2022).
"""

# B batch, C latent channels, F down-scale, p side of an output patch, H W pixels, h = H / F, w = W / F

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd.autoencoder import SSDD
from ssdd.encoders import AnyEncoder, encoder_of
from ssdd.packaged import resolve
from ssdd_decoder import DecoderConfig
from ssdd_decoder.checkpoint import Contents, read, read_header, write
from ssdd_decoder.sources import destination
from ssdd_encoder import Posterior

CHECKPOINT_NAME = "kl.safetensors"
KIND = "kl_decoder"  # of the configuration in a file's header; its tensors are in the part `decoder`
ORIGINAL_MULTIPLIERS = (1, 2, 4, 4)  # of widths, from full resolution down
UPSCALES = (1, 2, 4)  # as `model.upscale`


@dataclass(frozen=True, kw_only=True)
class KLDecoderConfig:
    """Shape of a KL-VAE's decoder.

    Args:
        width: channels at full resolution; the levels below have 1, 2, 4, 4, ... times as many.
        latent_channels: C.
        downscale: F.
        resnets_per_level: residual blocks of a level, less one.
        norm_groups: groups of every GroupNorm.
        patch_size: p, pixels per side that a cell of the last map stands for; 1 in published networks.
        shortcut: add a learned linear map of each latent cell to its F x F pixels, as SSDD's decoders of like size do;
            published networks have none.
    """

    width: int
    latent_channels: int = 4
    downscale: int = 8
    resnets_per_level: int = 2
    norm_groups: int = 32
    patch_size: int = 1
    shortcut: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution down."""
        levels = (self.downscale // self.patch_size).bit_length()
        multipliers = (*ORIGINAL_MULTIPLIERS, *(4,) * levels)[:levels]
        return tuple(self.width * multiplier for multiplier in multipliers)


class KLDecoder(nn.Module):
    """Maps latents to images in one call.

    Args:
        config: its shape.

    Raises:
        ValueError: a width is not a multiple of the groups.
    """

    def __init__(self, config: KLDecoderConfig) -> None:
        super().__init__()
        # Imported here, since diffusers takes seconds and SSDD's own models do without it.
        from diffusers.models.autoencoders.vae import Decoder

        if config.width % config.norm_groups:
            raise ValueError(
                f"expected a width that is a multiple of norm_groups={config.norm_groups}, got {config.width}"
            )
        self.config = config
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(
            in_channels=config.latent_channels,
            out_channels=3 * config.patch_size**2,
            up_block_types=("UpDecoderBlock2D",) * len(config.widths),
            block_out_channels=config.widths,
            layers_per_block=config.resnets_per_level,
            norm_num_groups=config.norm_groups,
        )
        if config.shortcut:
            self.shortcut = nn.Conv2d(config.latent_channels, 3 * config.downscale**2, 1)
            if not self.shortcut.weight.is_meta:
                nn.init.orthogonal_(self.shortcut.weight)
                nn.init.zeros_(self.decoder.conv_out.weight)  # the network starts as the linear map

    @property
    def last_layer(self) -> Tensor:
        """The weights that the adaptive weight of the adversary looks at."""
        return self.decoder.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), about [-1, 1] but not clamped."""
        h = self.decoder(self.post_quant_conv(z))
        image = F.pixel_shuffle(h, self.config.patch_size) if self.config.patch_size > 1 else h
        return image + F.pixel_shuffle(self.shortcut(z), self.config.downscale) if self.config.shortcut else image


class KLAutoencoder(nn.Module):
    """The frozen encoder of an SSDD model and a KL-VAE's decoder; it has the methods of `SSDD`.

    Args:
        encoder: of images.
        decoder: of its latents; one whose F is 2 or 4 times the encoder's makes images as many times as large.
    """

    def __init__(self, encoder: AnyEncoder, decoder: KLDecoder) -> None:
        super().__init__()
        scales = [encoder.config.downscale * times for times in UPSCALES]
        if decoder.config.latent_channels != encoder.config.latent_channels or decoder.config.downscale not in scales:
            raise ValueError(f"expected a decoder of {encoder.config.name} latents, got one of {decoder.config}")
        self.encoder, self.decoder = encoder, decoder

    @property
    def upscale(self) -> int:
        """s: side of the decoder's images over that of the encoder's."""
        return self.decoder.config.downscale // self.encoder.config.downscale

    @torch.no_grad()
    def encode(self, x: Tensor, check_finite: bool = True) -> Posterior:
        """Images (B, 3, H, W) in [-1, 1] -> posterior over latents (B, C, h, w)."""
        return self.encoder(x, check_finite)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
    ) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), float32, not clamped; steps and noise have no effect.

        Raises:
            ValueError: with `check_finite`, a value of the image is not finite.
        """
        weight = self.decoder.post_quant_conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            image = self.decoder(z.to(weight.dtype)).float()
        if check_finite and not torch.isfinite(image).all():
            raise ValueError("expected the decoded image to be finite, got NaN or infinity: decode in float32")
        return image

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Writes both parts and their configuration as one safetensors file, whole or not at all."""
        config = {"encoder": asdict(self.encoder.config), KIND: asdict(self.decoder.config)}
        return write(destination(path, CHECKPOINT_NAME), self.state_dict(), config)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> "KLAutoencoder":
        """Loads a model that `save_pretrained` wrote, in evaluation mode.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds another kind of model.
        """
        contents: Any = read(resolve(source, CHECKPOINT_NAME))  # the encoder's package has a type of its own for it
        config = kl_config_in(contents)
        if config is None:
            raise contents.refusal("holds no KL-VAE decoder of this project: make one with the pipeline `train_kl`")
        with torch.device("meta"):
            decoder = KLDecoder(config)
        tensors = {key.removeprefix("decoder."): v for key, v in contents.tensors.items() if key.startswith("decoder.")}
        contents.fill(decoder, tensors, asked=str(config), held=str(config))
        return cls(encoder_of(contents), decoder.to(memory_format=torch.channels_last)).eval()

    @classmethod
    def config_in(cls, source: str | os.PathLike[str]) -> KLDecoderConfig | None:
        """Reads the decoder's configuration from a file's header; None where it holds another kind of model."""
        return kl_config_in(read_header(resolve(source, CHECKPOINT_NAME)))


class FeedForward(SSDD):
    """SSDD's network called once, at t = 1 and with zeros in the place of the noise: plain regression."""

    def decode(
        self,
        z: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
        grad: bool = False,
    ) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped; steps and noise have no effect."""
        scale = self.decoder.config.downscale
        zeros = z.new_zeros(z.shape[0], 3, z.shape[2] * scale, z.shape[3] * scale)
        return super().decode(z, 1, zeros, check_finite=check_finite, grad=grad)


def kl_config_in(contents: Contents) -> KLDecoderConfig | None:
    """Returns the configuration of the KL-VAE's decoder in a checkpoint; None where it holds none."""
    return contents.parse_config(KIND, KLDecoderConfig)


def matching_config(decoder: DecoderConfig, **changes: Any) -> KLDecoderConfig:
    """Returns the KL-VAE's decoder that is nearest to an SSDD decoder in its number of parameters.

    Latent space, depth, patches, groups and shortcut are the SSDD decoder's, and the width is the nearest multiple of
    the groups.

    Args:
        decoder: of SSDD.
        changes: fields that are given instead; with a `width`, nothing is searched.
    """
    shape: dict[str, Any] = {
        "latent_channels": decoder.latent_channels,
        "downscale": decoder.downscale,
        "resnets_per_level": decoder.resnets_per_level,
        "norm_groups": decoder.norm_groups,
        "patch_size": decoder.patch_size,
        "shortcut": decoder.shortcut,
        **{name: value for name, value in changes.items() if value is not None},
    }
    if "width" in shape:
        return KLDecoderConfig(**shape)
    return _nearest(KLDecoderConfig(width=shape["norm_groups"], **shape), _parameters_of(decoder))


def count_parameters(network: nn.Module) -> int:
    """Returns the number of weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _nearest(narrow: KLDecoderConfig, wanted: int) -> KLDecoderConfig:
    """Widens a decoder, a step of its groups at a time, as long as that brings it nearer to a number of parameters."""
    best, distance = narrow, abs(_kl_parameters(narrow) - wanted)
    while True:
        wider = replace(best, width=best.width + best.norm_groups)
        if abs(_kl_parameters(wider) - wanted) >= distance:
            return best
        best, distance = wider, abs(_kl_parameters(wider) - wanted)


@cache
def _kl_parameters(config: KLDecoderConfig) -> int:
    with torch.device("meta"):
        return count_parameters(KLDecoder(config))


@cache
def _parameters_of(config: DecoderConfig) -> int:
    from ssdd_decoder import Decoder

    with torch.device("meta"):
        return count_parameters(Decoder(config))
