"""The convolutional encoder of latent diffusion (Rombach et al., 2022): image to posterior."""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_encoder import checkpoint, sdvae, sources
from ssdd_encoder.blocks import LARGEST_WHOLE, NORM_EPS, DownLevel, Middle
from ssdd_encoder.config import EARLIER, SDVAE, EncoderConfig, describe, encoder_config
from ssdd_encoder.posterior import Posterior
from ssdd_encoder.strips import check_tile
from ssdd_encoder.tiles import encode_in_tiles

CHECKPOINT_NAME = "encoder.safetensors"
KIND = "encoder"
# Prefixes of keys that an encoder has and a decoder has not, in our layout and in diffusers'.
OWN_KEYS = ("down.", "mid.", "quant_conv.", "mid_block.resnets.", "mid_block.attentions.")
RANGE_TOLERANCE = 1e-2  # half-precision images may be rounded past 1


class Encoder(nn.Module):
    """Maps images to the posterior over their latents.

    Args:
        config: an `EncoderConfig`, or a name such as "f8c4". (`sdvae` is a set of weights, not a shape: load it with
            `Encoder.from_pretrained`.)

    Attributes:
        config: its shape.

    Raises:
        ValueError: there is no encoder of that name.
    """

    def __init__(self, config: EncoderConfig | str = "f8c4") -> None:
        super().__init__()
        if config == SDVAE:
            raise ValueError(
                f"expected the shape of an encoder, got {SDVAE!r}, which has weights: "
                f"use Encoder.from_pretrained({SDVAE!r}) or Encoder.from_pretrained(file, {SDVAE!r})"
            )
        self.config = config = encoder_config(config) if isinstance(config, str) else config
        widths, groups = config.widths, config.norm_groups
        self.conv_in = nn.Conv2d(3 * config.patch_size**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(widths[max(i - 1, 0)], width, config.resnets_per_level, groups, i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], groups, config.attention, config.attention_window)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.out_proj = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        if config.shortcut:
            self.shortcut = nn.Conv2d(3 * config.downscale**2, config.latent_channels, 1, bias=False)
            self._start_as_shortcut()

    def forward(
        self,
        x: Tensor,
        check_finite: bool = True,
        check_range: bool = True,
        attention_window: int | None = None,
        tile: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Posterior:
        """Encodes images.

        Args:
            x: (B, 3, H, W) in [-1, 1], H and W multiples of F, floating point; cast to the weights' dtype. (The range
                is not checked in compiled code.)
            check_finite: refuse NaN and infinity. False is for training, which reports the step and the images of a
                loss that is not finite.
            check_range: refuse values outside of [-1, 1]. With either check, the call waits for the device.
            attention_window: largest side of the windows that confine self-attention, in latent cells; by default the
                configuration's. Without one there, maps of up to 128 x 128 cells are seen as a whole, and larger ones
                in windows of up to 32 x 32; give a number from max(h, w) up to see those as a whole too.
            tile: encode images of more than tile x tile pixels one by one, in strips of about so many pixels, which set
                the memory. The result is that of the whole image, to within rounding. Feature maps lie in the host's
                memory up to 1 GiB, and beyond it in temporary files (`tempfile.gettempdir()`). Without gradients.
            progress: called from time to time with the part that is done, from 0 to 1, where tiles are used.

        Returns:
            the posterior, with mean and logvar (B, C, H / F, W / F).

        Raises:
            ValueError: the shape, dtype, device or a value is not as described.
        """
        self._check(x)
        _check_values(x, check_finite, check_range)
        image = x.to(self.conv_in.weight.dtype)
        if tile is not None:
            check_tile(tile)
            if x.shape[2] * x.shape[3] > tile**2:
                with torch.no_grad():
                    return Posterior.from_moments(encode_in_tiles(self, image, attention_window, tile, progress))
        h = self.conv_in(F.pixel_unshuffle(image, self.config.patch_size) if self.config.patch_size > 1 else image)
        for level in self.down:
            h = level(h)
        h = self.mid(h, attention_window)
        moments = self.out_proj(self.conv_out(F.silu(self.norm_out(h))))
        if self.config.shortcut:
            linear = self.shortcut(F.pixel_unshuffle(image, self.config.downscale))
            moments = moments + F.pad(linear, (0, 0, 0, 0, 0, linear.shape[1]))  # the mean's half; logvar gets zeros
        return Posterior.from_moments(moments)

    def confines(self, height: int, width: int) -> bool:
        """Whether a map of height x width cells is so large that its attention, global by design, gets windows."""
        config = self.config
        return config.attention and config.attention_window is None and height * width > LARGEST_WHOLE

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Writes weights and configuration as one safetensors file, whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, which gets `encoder.safetensors`.

        Returns:
            the file written.
        """
        file = sources.destination(path, CHECKPOINT_NAME)
        return checkpoint.write(file, self.state_dict(), {KIND: asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], config: EncoderConfig | str | None = None, **hub: Any
    ) -> "Encoder":
        """Loads an encoder, in evaluation mode.

        Args:
            source: a safetensors file, a folder that holds one, or a hub id (`owner/name`). The layout may be ours,
                the published one (`encoder.*`), diffusers' or latent diffusion's.
            config: the encoder that the file must hold; by default the one in its header, or else the published one
                with these shapes.
            hub: for a hub id: `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds another network.
        """
        contents = checkpoint.read(sources.resolve(sdvae.checkpoint_of(source), CHECKPOINT_NAME, **hub))
        return cls.from_contents(contents, SDVAE if source == SDVAE else config)

    @classmethod
    def from_contents(cls, contents: checkpoint.Contents, config: EncoderConfig | str | None = None) -> "Encoder":
        """Makes the encoder of a checkpoint that has been read, by either package; see `from_pretrained`."""
        tensors = _select(contents, may_lack_projection=config != SDVAE)
        held = _held_config(contents, tensors)
        if isinstance(config, str):
            config = held if held in EARLIER.get(config, ()) else encoder_config(config)
        wanted = config or held
        if wanted is None:
            raise contents.refusal("holds no encoder that is known here: pass its config")
        asked, found = describe(wanted), describe(held) if held else None
        # Refused even where the shapes fit: two networks can have equal shapes and mean different things by them.
        if found and found != asked and KIND in contents.config:
            raise contents.mismatch(tensors, asked=asked, held=found)
        with torch.device("meta"):  # no memory and no random numbers for weights that the file replaces
            encoder = cls(wanted)
        contents.fill(encoder, tensors, asked=asked, held=found)
        return encoder.eval()

    @classmethod
    def is_in(cls, contents: checkpoint.Contents) -> bool:
        """Whether a checkpoint holds an encoder."""
        return contents.holds(KIND, OWN_KEYS)

    @classmethod
    def config_in(cls, contents: checkpoint.Contents) -> EncoderConfig | None:
        """Returns the configuration of a checkpoint's encoder; None where it holds none, or none that is known here.

        Args:
            contents: the checkpoint, or only its header (`checkpoint.read_header`).

        Raises:
            CheckpointError: the header is not readable, or the file holds tensors that belong to no part.
        """
        return _held_config(contents, _select(contents)) if cls.is_in(contents) else None

    def _start_as_shortcut(self) -> None:
        if self.shortcut.weight.is_meta:
            return  # to be filled from a file
        # Orthogonal rows keep what they can of every patch; zeros let the network add to it from the first step on.
        nn.init.orthogonal_(self.shortcut.weight)
        for parameter in self.out_proj.parameters():
            nn.init.zeros_(parameter)

    def _check(self, x: Tensor) -> None:
        scale, weight = self.config.downscale, self.conv_in.weight
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[0] < 1:
            raise ValueError(
                f"expected images of shape (B, 3, H, W), got {tuple(x.shape)}: stack RGB images along a first axis"
            )
        if x.shape[2] % scale or x.shape[3] % scale or not x.shape[2] or not x.shape[3]:
            raise ValueError(
                f"expected H and W to be multiples of {scale}, got {x.shape[2]} x {x.shape[3]}: pad or crop the image"
            )
        if not x.is_floating_point():
            raise ValueError(f"expected floating point images in [-1, 1], got {x.dtype}: use x.float() / 127.5 - 1")
        if x.device != weight.device:
            raise ValueError(f"expected images on {weight.device}, got {x.device}: move them with x.to(...)")


def _check_values(x: Tensor, check_finite: bool, check_range: bool) -> None:
    if not (check_finite or check_range):
        return
    if torch.compiler.is_compiling() or x.is_meta:  # a value that decides what follows would break the graph
        return
    largest = x.detach().abs().amax().item()
    if check_finite and not math.isfinite(largest):  # NaN is neither below nor above any range
        raise ValueError("expected finite images, got NaN or infinity: check how they were read")
    if check_range and largest > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"expected images in [-1, 1], got values from {x.amin():.3g} to {x.amax():.3g}: rescale them, "
            "from [0, 255] by x / 127.5 - 1, from [0, 1] by 2 * x - 1"
        )


def _select(contents: checkpoint.Contents, may_lack_projection: bool = True) -> dict[str, Tensor]:
    tensors = sdvae.to_native(contents.select(KIND, OWN_KEYS, sdvae.OUTSIDE_THE_ENCODER))
    lacking = may_lack_projection and sdvae.lacks_projection(contents.tensors)
    return sdvae.with_projection(tensors) if lacking else tensors


def _held_config(contents: checkpoint.Contents, tensors: dict[str, Tensor]) -> EncoderConfig | None:
    """Returns the configuration in the header, or else the published one with these numbers of levels and channels."""
    if (config := contents.parse_config(KIND, EncoderConfig)) is not None:
        return config
    levels = len({key.split(".")[1] for key in tensors if key.startswith("down.")})
    last = tensors.get("out_proj.bias")
    if last is None or last.ndim != 1:
        return None
    try:
        # The limit keeps a hostile file with many levels from asking for a power of two with thousands of digits.
        return encoder_config(f"f{2 ** (min(levels, 20) - 1)}c{last.numel() // 2}")
    except ValueError:  # no published encoder has such counts
        return None
