"""Encoder and decoder as one model. Only here do the two packages meet."""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.packaged import resolve
from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, decoder_config
from ssdd_decoder.checkpoint import read, read_header, write
from ssdd_decoder.sources import destination
from ssdd_encoder import Encoder, EncoderConfig, Posterior, encoder_config, sdvae
from ssdd_encoder.encoder import CHECKPOINT_NAME as ENCODER_NAME

CHECKPOINT_NAME = "ssdd.safetensors"
SDVAE = sdvae.SDVAE


class SSDD(nn.Module):
    """An image tokenizer: convolutional encoder, flow-matching pixel decoder.

    Args:
        encoder: its configuration or name: `f<F>c<C>`, `debug`, `quickstart`, `demo`; or `sdvae`, SD-VAE's encoder,
            whose weights come from `encoder_checkpoint`, or from `checkpoint` if it holds an encoder, or from the hub.
        decoder: its configuration or size: XS, S, B, M, L, XL, H; `debug`, `quickstart`, `demo`.
        checkpoint: a safetensors file, a folder that holds one, a hub id, or a packaged model (`demo`): with both
            parts, or the decoder alone.
        encoder_checkpoint: the same for the encoder, where it is not in `checkpoint`; or `sdvae`.

    Raises:
        ValueError: a name is unknown, or the two parts have different latent spaces.
        CheckpointError: a file is missing, damaged, or holds other networks (a ValueError too).
    """

    def __init__(
        self,
        encoder: EncoderConfig | str = "f8c4",
        decoder: DecoderConfig | str = "M",
        checkpoint: str | os.PathLike[str] | None = None,
        encoder_checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        encoder_shape = encoder_config(encoder) if isinstance(encoder, str) else encoder
        space = {"latent_channels": encoder_shape.latent_channels, "downscale": encoder_shape.downscale}
        decoder_shape = decoder_config(decoder, **space) if isinstance(decoder, str) else decoder
        _check_spaces(encoder_shape, decoder_shape)
        contents = _read(checkpoint, CHECKPOINT_NAME) if checkpoint is not None else None
        # SD-VAE's encoder has published weights. Random ones in its place would be a silent mistake.
        if encoder_checkpoint is None and encoder == SDVAE and not (contents and Encoder.is_in(contents)):
            encoder_checkpoint = SDVAE
        own = contents if encoder_checkpoint is None else _read(encoder_checkpoint, ENCODER_NAME)
        self.encoder = Encoder(encoder_shape) if own is None else Encoder.from_contents(own, encoder_shape)
        self.decoder = Decoder(decoder_shape) if contents is None else Decoder.from_contents(contents, decoder_shape)
        if contents is not None:
            self.eval()

    @torch.no_grad()
    def encode(self, x: Tensor, check_finite: bool = True) -> Posterior:
        """Images (B, 3, H, W) in [-1, 1] -> posterior over latents (B, C, h, w); see `Encoder.forward`."""
        return self.encoder(x, check_finite)

    def decode(
        self,
        z: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
    ) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped; see `Decoder.decode`."""
        return self.decoder.decode(z, steps=steps, noise=noise, generator=generator, check_finite=check_finite)

    def reconstruct(
        self,
        x: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
    ) -> Tensor:
        """Encodes images (B, 3, H, W) in [-1, 1] to the posterior's mode and decodes it: (B, 3, H, W)."""
        return self.decode(self.encode(x).mode(), steps, noise, generator, check_finite)

    def save_pretrained(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> Path:
        """Writes both parts and their configuration as one safetensors file, whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, which gets `ssdd.safetensors`.
            metadata: further header entries.

        Returns:
            the file written.
        """
        file = destination(path, CHECKPOINT_NAME)
        config = {"encoder": asdict(self.encoder.config), "decoder": asdict(self.decoder.config)}
        return write(file, self.state_dict(), config, metadata)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> "SSDD":
        """Loads a model, in evaluation mode; its configurations come from the header or, without one, from the shapes.

        Args:
            source: a safetensors file with both parts, a folder that holds one, a hub id (`owner/name`), or a model
                that comes with the package (`demo`).

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds no known encoder and decoder.
        """
        contents = _read(source, CHECKPOINT_NAME)
        encoder, decoder = Encoder.from_contents(contents), Decoder.from_contents(contents)
        try:
            _check_spaces(encoder.config, decoder.config)
        except ValueError as error:
            raise CheckpointError(f"{contents.file} holds two parts that do not fit: {error}") from error
        # Not through the constructor, which would build both networks a second time.
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.encoder, model.decoder = encoder, decoder
        return model.eval()

    @classmethod
    def encoder_config_of(cls, source: str | os.PathLike[str]) -> EncoderConfig | None:
        """Reads the configuration of an encoder from a checkpoint's header alone; the file's decoder may be any.

        Files of other projects, such as SD-VAE, hold a decoder that `config_of` refuses.

        Args:
            source: see `config_of`; in a folder, `encoder.safetensors` is looked for first.

        Raises:
            CheckpointError: there is no such file, or its header is damaged.
        """
        return Encoder.config_in(_read(source, ENCODER_NAME, header_only=True))

    @classmethod
    def config_of(cls, source: str | os.PathLike[str]) -> tuple[EncoderConfig | None, DecoderConfig | None]:
        """Reads the configurations in a checkpoint from its header alone, without its weights.

        Args:
            source: a safetensors file, a folder that holds one, a hub id (`owner/name`), `sdvae`, or `demo`.

        Returns:
            those of the encoder and of the decoder, each None where the file holds none, or none that is known here.

        Raises:
            CheckpointError: there is no such file, or its header is damaged.
        """
        header = _read(source, CHECKPOINT_NAME, header_only=True)
        return Encoder.config_in(header), Decoder.config_in(header)


def _read(source: str | os.PathLike[str], name: str, header_only: bool = False) -> Any:
    """Returns the decoder package's `Contents`, for both networks: so all errors are the decoder's `CheckpointError`.

    The encoder package's class of that name is the same source, but a type of its own.
    """
    return (read_header if header_only else read)(resolve(sdvae.checkpoint_of(source), name))


def _check_spaces(encoder: EncoderConfig, decoder: DecoderConfig) -> None:
    if (decoder.latent_channels, decoder.downscale) != (encoder.latent_channels, encoder.downscale):
        raise ValueError(
            f"expected a decoder of {encoder.name} latents, got one of f{decoder.downscale}c{decoder.latent_channels}: "
            "choose a decoder of the encoder's latent space"
        )
