"""Encoder and decoder as one model. Only here do the two packages meet."""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.diffusers_encoders import NAME as DIFFUSERS
from ssdd.encoders import (
    AnyEncoder,
    AnyEncoderConfig,
    encoder_config_in,
    encoder_of,
    make_encoder,
    read_checkpoint,
)
from ssdd.imported_encoders import import_encoder
from ssdd.latent_scaling import SCALING_KEY, LatentScaling, find_scaling
from ssdd_decoder import CheckpointError, Decoder, DecoderConfig, decoder_config
from ssdd_decoder.checkpoint import write
from ssdd_decoder.sources import destination
from ssdd_encoder import Encoder, Posterior, encoder_config, sdvae
from ssdd_encoder.encoder import CHECKPOINT_NAME as ENCODER_NAME

CHECKPOINT_NAME = "ssdd.safetensors"
SDVAE = sdvae.SDVAE


class SSDD(nn.Module):
    """An image tokenizer: convolutional encoder, flow-matching pixel decoder.

    Args:
        encoder: its configuration or name: `f<F>c<C>`, `debug`, `quickstart`, `demo`; or `sdvae`, SD-VAE's encoder,
            whose weights come from `encoder_checkpoint`, or from `checkpoint` if it holds an encoder, or from the hub;
            or `diffusers`, that of the autoencoder of diffusers whose folder or hub id is `encoder_checkpoint`.
        decoder: its configuration or size: XS, S, B, M, L, XL, H; `debug`, `quickstart`, `demo`.
        checkpoint: a safetensors file, a folder that holds one, a hub id, or a packaged model (`demo`): with both
            parts, or the decoder alone.
        encoder_checkpoint: the same for the encoder, where it is not in `checkpoint`; or `sdvae`.
        upscale: s, for a decoder, named by its size, whose images are s times as large as those of the encoder.

    Attributes:
        scaling: how generators scale the latents, where these are those of an autoencoder of diffusers; else None.

    Raises:
        ValueError: a name is unknown, or the two parts have different latent spaces.
        CheckpointError: a file is missing, damaged, or holds other networks (a ValueError too).
    """

    def __init__(
        self,
        encoder: AnyEncoderConfig | str = "f8c4",
        decoder: DecoderConfig | str = "M",
        checkpoint: str | os.PathLike[str] | None = None,
        encoder_checkpoint: str | os.PathLike[str] | None = None,
        upscale: int = 1,
    ) -> None:
        super().__init__()
        self.scaling: LatentScaling | None = None
        imported = None
        if encoder == DIFFUSERS:
            if encoder_checkpoint is None:
                raise ValueError(f"expected the folder or hub id of the {DIFFUSERS} encoder as encoder_checkpoint")
            imported = import_encoder(os.fspath(encoder_checkpoint))
            encoder, self.scaling = imported.network.config, imported.scaling
        encoder_shape = encoder_config(encoder) if isinstance(encoder, str) else encoder
        space = {"latent_channels": encoder_shape.latent_channels, "downscale": encoder_shape.downscale}
        space["upscale"] = upscale
        decoder_shape = decoder_config(decoder, **space) if isinstance(decoder, str) else decoder
        check_spaces(encoder_shape, decoder_shape)
        contents = read_checkpoint(checkpoint, CHECKPOINT_NAME) if checkpoint is not None else None
        # SD-VAE's encoder has published weights. Random ones in its place would be a silent mistake.
        if encoder_checkpoint is None and encoder == SDVAE and not (contents and Encoder.is_in(contents)):
            encoder_checkpoint = SDVAE
        own = contents
        if encoder_checkpoint is not None and imported is None:
            own = read_checkpoint(encoder_checkpoint, ENCODER_NAME)
        if imported is not None:
            self.encoder: AnyEncoder = imported.network
        elif own is None:
            self.encoder = make_encoder(encoder_shape)
        else:
            self.encoder, self.scaling = encoder_of(own, encoder_shape), find_scaling(own)
        self.decoder = Decoder(decoder_shape) if contents is None else Decoder.from_contents(contents, decoder_shape)
        if contents is not None:
            self.eval()

    @property
    def upscale(self) -> int:
        """s: side of the decoder's images over that of the encoder's; 1 for ordinary models."""
        return self.decoder.config.upscale

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
        grad: bool = False,
    ) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped; `grad` keeps the graph. See `Decoder.decode`."""
        return self.decoder.decode(z, steps, noise, generator, check_finite, grad=grad)

    def reconstruct(
        self,
        x: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
    ) -> Tensor:
        """Encodes images (B, 3, H, W) in [-1, 1] to the posterior's mode and decodes it: (B, 3, s H, s W)."""
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
        scaling = {SCALING_KEY: json.dumps(asdict(self.scaling))} if self.scaling else {}
        return write(file, self.state_dict(), config, {**scaling, **(metadata or {})})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        metadata: dict[str, str] | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload SSDD",
    ) -> str:
        """Uploads the model to the Hugging Face hub, as `ssdd.safetensors` and, with a card, `README.md`.

        Args:
            repo_id: `owner/name`; made if it is not there.
            card: Markdown, such as `ssdd card` writes.
            metadata: further header entries.
            private: whether a new repository is private; by default as the hub decides.
            token: of the hub; by default the one of `hf auth login`.
            revision: the branch.
            commit_message: of the upload.

        Returns:
            the address of the commit.
        """
        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, metadata)
            if card is not None:
                (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            return str(
                hub.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=commit_message)
            )

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **hub: Any) -> "SSDD":
        """Loads a model, in evaluation mode; its configurations come from the header or, without one, from the shapes.

        Args:
            source: a safetensors file with both parts, a folder that holds one, a hub id (`owner/name`), or a model
                that comes with the package (`demo`).
            hub: for a hub id: `revision` (branch, tag or commit), `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds no known encoder and decoder.
        """
        contents = read_checkpoint(source, CHECKPOINT_NAME, **hub)
        encoder, decoder = encoder_of(contents), Decoder.from_contents(contents)
        try:
            check_spaces(encoder.config, decoder.config)
        except ValueError as error:
            raise CheckpointError(f"{contents.file} holds two parts that do not fit: {error}") from error
        # Not through the constructor, which would build both networks a second time.
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.encoder, model.decoder, model.scaling = encoder, decoder, find_scaling(contents)
        return model.eval()

    @classmethod
    def encoder_config_of(cls, source: str | os.PathLike[str]) -> AnyEncoderConfig | None:
        """Reads the configuration of an encoder from a checkpoint's header alone; the file's decoder may be any.

        Files of other projects, such as SD-VAE, hold a decoder that `config_of` refuses.

        Args:
            source: see `config_of`; in a folder, `encoder.safetensors` is looked for first.

        Raises:
            CheckpointError: there is no such file, or its header is damaged.
        """
        return encoder_config_in(read_checkpoint(source, ENCODER_NAME, header_only=True))

    @classmethod
    def config_of(cls, source: str | os.PathLike[str]) -> tuple[AnyEncoderConfig | None, DecoderConfig | None]:
        """Reads the configurations in a checkpoint from its header alone, without its weights.

        Args:
            source: a safetensors file, a folder that holds one, a hub id (`owner/name`), `sdvae`, or `demo`.

        Returns:
            those of the encoder and of the decoder, each None where the file holds none, or none that is known here.

        Raises:
            CheckpointError: there is no such file, or its header is damaged.
        """
        header = read_checkpoint(source, CHECKPOINT_NAME, header_only=True)
        return encoder_config_in(header), Decoder.config_in(header)


def check_spaces(encoder: AnyEncoderConfig, decoder: DecoderConfig) -> None:
    """Refuses a decoder of another latent space than the encoder's, with a ValueError."""
    if (decoder.latent_channels, decoder.downscale) != (encoder.latent_channels, encoder.downscale * decoder.upscale):
        space = f"f{decoder.downscale // decoder.upscale}c{decoder.latent_channels}"
        raise ValueError(
            f"expected a decoder of {encoder.name} latents, got one of {space}: "
            "choose a decoder of the encoder's latent space"
        )
