"""Encoder and decoder as one model: the one place where they meet."""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, decoder_config
from ssdd_decoder.checkpoint import Contents, read, write
from ssdd_decoder.sources import destination, resolve
from ssdd_encoder import CheckpointError as EncoderCheckpointError
from ssdd_encoder import Encoder, EncoderConfig, Posterior, encoder_config
from ssdd_encoder.checkpoint import Contents as EncoderContents

CHECKPOINT_NAME = "ssdd.safetensors"
SDVAE = "sdvae"


class SSDD(nn.Module):
    """An image tokenizer: convolutional encoder, flow-matching pixel decoder.

    Args:
        encoder: its configuration or name: `f<F>c<C>`, `debug`, `quickstart`; `sdvae` (SD-VAE's encoder, whose
            weights are read from `encoder_checkpoint`, else from `checkpoint` if it holds an encoder, else the hub).
        decoder: its configuration or size: XS, S, B, M, L, XL, H; `debug`, `quickstart`.
        checkpoint: a safetensors file, a folder that holds one, or a hub id: with both parts, or the decoder alone.
        encoder_checkpoint: the same for the encoder, where it is not in `checkpoint`.

    Raises:
        ValueError: a name is unknown, or the two parts have different latent spaces.
        CheckpointError: a file is missing, damaged, or holds something else (a ValueError too).
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
        contents = read(resolve(checkpoint, CHECKPOINT_NAME)) if checkpoint is not None else None
        encoder_is_there = contents is not None and "encoder" in contents.parts
        if encoder_checkpoint is None and encoder == SDVAE and not encoder_is_there:
            encoder_checkpoint = SDVAE
        source = encoder_checkpoint if encoder_checkpoint is not None else contents
        self.encoder = Encoder(encoder_shape) if source is None else _load_encoder(source, encoder_shape)
        self.decoder = Decoder(decoder_shape) if contents is None else Decoder.from_contents(contents, decoder_shape)
        if contents is not None:
            self.eval()

    @torch.no_grad()
    def encode(self, x: Tensor, check_finite: bool = False) -> Posterior:
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
        return self.decode(self.encode(x, check_finite).mode(), steps, noise, generator, check_finite)

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
        """Loads a model, in evaluation mode, whatever it is: its header or, for published files, its shapes tell.

        Args:
            source: a safetensors file with both parts, a folder that holds one, or a hub id (`owner/name`).

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds no known encoder and decoder.
        """
        contents = read(resolve(source, CHECKPOINT_NAME))
        encoder, decoder = _load_encoder(contents), Decoder.from_contents(contents)
        try:
            _check_spaces(encoder.config, decoder.config)
        except ValueError as error:
            raise CheckpointError(f"{contents.file} holds two parts that do not fit: {error}") from error
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.encoder, model.decoder = encoder, decoder
        return model.eval()


def _check_spaces(encoder: EncoderConfig, decoder: DecoderConfig) -> None:
    if (decoder.latent_channels, decoder.downscale) != (encoder.latent_channels, encoder.downscale):
        raise ValueError(
            f"expected a decoder of {encoder.name} latents, got one of f{decoder.downscale}c{decoder.latent_channels}: "
            "choose a decoder of the encoder's latent space"
        )


def _load_encoder(source: Contents | str | os.PathLike[str], config: EncoderConfig | None = None) -> Encoder:
    """Loads an encoder; the two packages' types of contents and of errors are alike, but each has its own."""
    try:
        if isinstance(source, Contents):
            contents = EncoderContents(source.file, source.config, source.tensors, source.metadata)
            return Encoder.from_contents(contents, config)
        return Encoder.from_pretrained(source, config)
    except EncoderCheckpointError as error:
        raise CheckpointError(str(error)) from error
