"""The `vae` of diffusers' pipelines: `pipe.vae = AutoencoderSSDD.from_pretrained("demo")`."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F pixels

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ssdd.autoencoder import CHECKPOINT_NAME, check_spaces
from ssdd.encoders import encoder_of, make_encoder, read_checkpoint, read_config
from ssdd.integrations.autoencoder_entries import decoder_shape, derived_entries
from ssdd.integrations.fixed_noise import fixed_noise
from ssdd.integrations.inner_scale import InnerScale
from ssdd.integrations.offloaded import loaded
from ssdd.latent_scaling import Normalization, choose_scaling
from ssdd.model_files import find_model
from ssdd_decoder import CheckpointError, Decoder
from ssdd_decoder.flow import draw_noise
from ssdd_decoder.sources import HUB_ID, HUB_OPTIONS, SUFFIX
from ssdd_decoder.strips import check_tile
from ssdd_encoder import Encoder, LatentStatistics

Generators = torch.Generator | Sequence[torch.Generator] | None


class Encoded(AutoencoderKLOutput):
    """The posterior `latent_dist`, and its mode, which some pipelines (of Sana) ask for instead."""

    @property
    def latent(self) -> Tensor:
        """(B, C, h, w)."""
        return self.latent_dist.mode()


class AutoencoderSSDD(ModelMixin, AutoencoderMixin, ConfigMixin):  # type: ignore[misc]
    """Encoder and single-step diffusion decoder, as diffusers' pipelines call their autoencoders.

    Latents are the encoder's own; pipelines apply `scaling_factor` and `shift_factor`, or `latents_mean` and
    `latents_std`. The decoder starts from noise of a fixed seed, the same for every picture, unless the caller gives
    generators. Images are about [-1, 1], not clamped, and float32 whatever the weights' dtype.

    Give it to a pipeline when you make or load the pipeline (`from_pretrained(..., vae=vae)`) if its F is not that of
    the autoencoder before: pipelines take F from it once, from the number of `block_out_channels`.

    Args:
        encoder_config: fields of an `EncoderConfig` or a `DiffusersEncoderConfig`, or a name such as `f8c4`.
        decoder_config: fields of a `DecoderConfig`, or a size such as `M`.
        num_inference_steps: the decoder's steps where a call names none; 1 for distilled decoders, about 8 for others.
        scaling_factor, shift_factor: of latents as a whole.
        latents_mean, latents_std: of each channel; then the two above are 1 and 0.
        inner_mean, inner_std: of each channel, applied in here: latents are normalised ones, see `InnerScale`.
        force_upcast: whether pipelines of SDXL decode in float32. The decoder needs it not, for its norms, softmax and
            time embedding are float32 in any dtype.
        sample_size: side of the images in pixels, for pipelines that want a default.
        latent_channels, block_out_channels, encoder_block_out_channels: follow from the encoder; ignored if given.
        upscale: s of a decoder, named by its size, whose pictures are s times as large as those that the encoder takes.
            A pipeline with it is called with the height and width of the smaller pictures, and draws the larger ones.

    Raises:
        ValueError: a configuration is not valid, the two parts have different latent spaces, F is no power of two, or a
            decoder with a configuration of its own has another s than `upscale`.
    """

    # No norm, softmax or time embedding depends on it: they are float32 inside, whatever the weights' dtype.
    _keep_in_fp32_modules: Any = None
    # Each reads weights of its layers outside of these layers' calls, and so must be on one device as a whole.
    _no_split_modules: Any = ["Encoder", "DiffusersEncoder", "Decoder"]  # noqa: RUF012
    _supports_gradient_checkpointing = True
    _supports_group_offloading = False
    # Layers whose weights or dtype are read from outside keep their dtype; those of norms do so in any model.
    _skip_layerwise_casting_patterns: Any = ("conv_in", "time_emb", "attn1", "upsamplers")

    @register_to_config
    def __init__(
        self,
        encoder_config: dict[str, Any] | str = "f8c4",
        decoder_config: dict[str, Any] | str = "M",
        num_inference_steps: int = 1,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        inner_mean: list[float] | None = None,
        inner_std: list[float] | None = None,
        force_upcast: bool = False,
        sample_size: int = 512,
        latent_channels: int | None = None,
        block_out_channels: list[int] | None = None,
        encoder_block_out_channels: list[int] | None = None,
        upscale: int | None = None,
    ) -> None:
        super().__init__()
        encoder = read_config(encoder_config)
        decoder = decoder_shape(decoder_config, encoder, upscale)
        check_spaces(encoder, decoder)
        outer = (scaling_factor, shift_factor, latents_mean, latents_std)
        self.inner = InnerScale(inner_mean, inner_std).checked(encoder.latent_channels, outer)
        self.register_to_config(**derived_entries(encoder, decoder))
        self.encoder = make_encoder(encoder)
        self.decoder = Decoder(decoder)
        self.use_slicing = self.use_tiling = False
        self.tile: int | None = None

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Images (B, 3, H, W), usually in [-1, 1] -> `.latent_dist`, over latents (B, C, h, w) that are not scaled."""
        with loaded(self.encoder):
            pieces = x.split(1) if self.use_slicing else [x]
            options: dict[str, Any] = {"tile": self.tile} if isinstance(self.encoder, Encoder) else {}
            posteriors = [self.encoder(piece, check_finite=False, check_range=False, **options) for piece in pieces]
        moments = torch.cat([self.inner.moments(posterior.mean, posterior.logvar) for posterior in posteriors])
        distribution = DiagonalGaussianDistribution(moments)
        return Encoded(latent_dist=distribution) if return_dict else (distribution,)

    @apply_forward_hook
    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: Generators = None,
        num_inference_steps: int | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Decodes latents; with gradients, unless the caller has switched them off or tiling on.

        Args:
            z: (B, C, h, w), not scaled.
            return_dict: a `DecoderOutput` instead of a tuple.
            generator: of the decoder's noise: one, or one per image. By default, all images have the same noise.
            num_inference_steps: steps of the decoder; by default as configured.

        Returns:
            `.sample`, (B, 3, s H, s W), about [-1, 1], float32 (float64 for float64 weights).

        Raises:
            ValueError: see `ssdd_decoder.Decoder.decode`.
        """
        config: Any = self.config  # a dict whose entries are attributes
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        with loaded(self.decoder):
            z = self.inner.latents(z.to(self.decoder.conv_in.weight.device))
            noise = self._noise(z, generator)
            pieces = zip(z.split(1), noise.split(1), strict=True) if self.use_slicing else [(z, noise)]
            options: dict[str, Any] = {"steps": steps, "grad": self.tile is None, "tile": self.tile}
            image = torch.cat([self.decoder.decode(latent, noise=start, **options) for latent, start in pieces])
        return DecoderOutput(sample=image) if return_dict else (image,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generators = None,
        num_inference_steps: int | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encodes and decodes images (B, 3, H, W) to (B, 3, s H, s W), with gradients through both parts.

        Args:
            sample: the images.
            sample_posterior: draw the latent, with `generator`, instead of its mode.
            return_dict: a `DecoderOutput` instead of a tuple.
            generator: of the latent, if it is drawn; then of the decoder's noise.
            num_inference_steps: steps of the decoder.
        """
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict, generator, num_inference_steps)

    def enable_tiling(self, tile: int = 512) -> None:
        """Encodes and decodes images of more than tile x tile pixels in strips of about so many, without gradients.

        The result is that of the whole image, to within rounding; see `ssdd_decoder.Decoder.decode`.
        """
        check_tile(tile)
        self.tile, self.use_tiling = tile, True

    def disable_tiling(self) -> None:
        """Encodes and decodes images as a whole."""
        self.tile, self.use_tiling = None, False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        latent_statistics: LatentStatistics | str | os.PathLike[str] | None = None,
        normalization: Normalization | None = None,
        **options: Any,
    ) -> "AutoencoderSSDD":
        """Loads a model, in evaluation mode.

        Args:
            pretrained_model_name_or_path: what `save_pretrained` or `push_to_hub` wrote, a folder or hub id; or a
                checkpoint of this project: a file, a folder or hub id with one, a run (`RUN`, `RUN@best`) of the
                project in the current folder, or `demo`.
            latent_statistics: of a checkpoint's latents, as a file or a value; by default those in its header or in a
                file beside it, as in the folder of a run. Without any, latents are not scaled.
            normalization: see `scaling_of`; by default that of the autoencoder of diffusers whose latents a checkpoint
                decodes, or else `overall`.
            options: those of diffusers: `torch_dtype`, `subfolder`, `revision`, `cache_dir`, `token`,
                `local_files_only`, ...; for a checkpoint also entries of the configuration, such as
                `num_inference_steps`.

        Raises:
            CheckpointError: there is no such checkpoint, or it holds other networks (a ValueError too).
        """
        source = str(pretrained_model_name_or_path)
        if _is_from_diffusers(source, options):
            model = super().from_pretrained(source, **options)
        else:
            model = cls._from_checkpoint(source, latent_statistics, normalization, options)
        if isinstance(model, cls) and not hasattr(model, "hf_device_map"):
            model.decoder.to(memory_format=torch.channels_last)  # which diffusers does not keep
        return model  # or, where the options ask for it, a tuple with a report on the loading

    @property
    def post_quant_conv(self) -> nn.Module:
        """The first part of decoding, of which SDXL's pipelines with `force_upcast` want to know the dtype."""
        return self.decoder

    @classmethod
    def _from_checkpoint(
        cls,
        source: str,
        statistics: LatentStatistics | str | os.PathLike[str] | None,
        normalization: Normalization | None,
        options: dict[str, Any],
    ) -> "AutoencoderSSDD":
        dtype = options.pop("torch_dtype", None) or options.pop("dtype", None)
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        place = os.path.join(source, options.pop("subfolder", None) or "").rstrip("/")
        contents = read_checkpoint(find_model(place), CHECKPOINT_NAME, **hub)
        scaling = choose_scaling(contents, statistics, normalization)
        encoder, decoder = encoder_of(contents), Decoder.from_contents(contents)
        entries = {**asdict(scaling), **derived_entries(encoder.config, decoder.config), **options}
        with torch.device("meta"):  # to be replaced
            model = cls(**entries)
        model.encoder, model.decoder = encoder, decoder
        model.register_to_config(_name_or_path=source)
        return model.to(dtype).eval() if dtype else model.eval()

    def _noise(self, z: Tensor, generator: Generators) -> Tensor:
        height, width = (side * self.decoder.config.downscale for side in z.shape[2:])
        if generator is not None:
            return draw_noise((z.shape[0], 3, height, width), z, generator)
        # One draw for all: no picture depends on its place in the batch, and decoding again gives the same picture.
        return fixed_noise(z.detach(), height, width).expand(z.shape[0], -1, -1, -1)


def _is_from_diffusers(source: str, options: dict[str, Any]) -> bool:
    """Whether a folder or hub id has the configuration that diffusers writes; a checkpoint has a header instead."""
    folder = Path(source) / (options.get("subfolder") or "")
    on_disk = Path(source).exists() or source.endswith(SUFFIX)
    if on_disk and not (folder / AutoencoderSSDD.config_name).is_file():
        return False
    if not on_disk and not re.fullmatch(HUB_ID, source):
        return False
    known = {name: options[name] for name in (*HUB_OPTIONS, "subfolder") if name in options}
    try:
        name = AutoencoderSSDD.load_config(source, **known).get("_class_name")
    except OSError:  # no such repository, or one without that file
        return False
    if name != AutoencoderSSDD.__name__:
        raise CheckpointError(
            f"{source} holds diffusers' {name}, not an AutoencoderSSDD: load it with diffusers, or train a decoder on "
            "its latents (model.encoder=diffusers)"
        )
    return True


# The pipeline's `model_index.json` names a class by its module; it has to be the one from which users import it.
AutoencoderSSDD.__module__ = "ssdd"
