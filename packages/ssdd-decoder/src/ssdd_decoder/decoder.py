"""Latent to image: the decoder that users load, call and save."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F pixels

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdd_decoder import checkpoint, sources
from ssdd_decoder.config import SIZES, DecoderConfig, decoder_config, describe, is_earlier
from ssdd_decoder.flow import draw_noise
from ssdd_decoder.recording import record
from ssdd_decoder.sampler import euler_sample
from ssdd_decoder.strips import check_tile
from ssdd_decoder.tiles import decode_in_tiles
from ssdd_decoder.times import check_steps
from ssdd_decoder.unet import UNet

CHECKPOINT_NAME = "decoder.safetensors"
KIND = "decoder"
# Prefixes of keys that a decoder has and an encoder has not. They are part of the published layout.
OWN_KEYS = ("ada_ctx_proj.", "time_embedding.", "up_blocks.")


class Decoder(UNet):
    """Decodes latents into images by flow matching: with one step once distilled, with several before.

    Args:
        config: a `DecoderConfig`, or a size such as "M" (for f8c4 latents; see `decoder_config` for others).
    """

    def __init__(self, config: DecoderConfig | str = "M") -> None:
        super().__init__(decoder_config(config) if isinstance(config, str) else config)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Predicts the velocity of noisy images.

        Args:
            x_t: (B, 3, H, W).
            t: (B,) or (1,), in [0, 1]. (The range is not checked in compiled code.)
            z: (B, C, h, w), the clean images' latents.

        Returns:
            (B, 3, H, W), towards the clean image.

        Raises:
            ValueError: a shape, dtype, device or time is not as described.
        """
        self._check_latent(z)
        self._check_image("x_t", x_t, self._image_shape(z))
        _check_times(t, z)
        return super().forward(x_t, t, z.to(self.conv_in.weight.dtype))

    def decode(
        self,
        z: Tensor,
        steps: int = 1,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        check_finite: bool = False,
        compile: bool = False,
        grad: bool = False,
        tile: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Decodes latents.

        Args:
            z: (B, C, h, w), floating point, as it comes from the encoder (not normalised).
            steps: Euler steps; 1 for distilled decoders, about 8 for others.
            noise: (B, 3, H, W), the start at t = 1; drawn when absent.
            generator: for the noise: one, or one per image, which makes each image independent of its batch.
            check_finite: refuse NaN and infinity in z, noise and the result (waits for the device).
            compile: use torch.compile: one graph for the latent's part and one for a step, for any number of steps. The
                first call takes minutes. So does the first call with another size or batch, which makes them dynamic.
            grad: record gradients through all steps, to z, noise and the weights, for a loss on the image.
                `gradient_checkpointing = True` then saves memory.
            tile: decode images of more than tile x tile pixels one by one, in strips of about so many pixels, which set
                the memory. The result is that of the whole image, to within rounding. Feature maps lie in the host's
                memory up to 1 GiB, and beyond it in temporary files (`tempfile.gettempdir()`), which need about 1.6 KB
                per pixel for S. Without gradients.
            progress: called from time to time with the part that is done, from 0 to 1, where tiles are used.

        Returns:
            images (B, 3, H, W), about [-1, 1] but not clamped, computed in the weights' dtype and returned in float32
            (float64 for a float64 decoder).

        Raises:
            ValueError: a shape, dtype, device, the steps or (when checked) a value is not as described.
        """
        weight = self.conv_in.weight
        check_steps(steps)
        self._check_latent(z)
        shape = self._image_shape(z)
        if noise is None:
            noise = draw_noise(shape, weight, generator)
        elif generator is not None:
            raise ValueError("expected noise or a generator to draw it from, got both: drop one")
        self._check_image("noise", noise, shape)
        if check_finite:
            _check_finite("z", z)
            _check_finite("noise", noise)
        tiled = tile is not None and _exceeds(shape, tile)
        if tiled and (grad or compile):
            raise ValueError("expected neither grad nor compile with tile: decode without it, or leave them out")
        # The weights' dtype alone decides the precision, not the context of the caller. Gradients need both to agree.
        recorded = grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(recorded), torch.autocast(weight.device.type, enabled=False):
            dtype = torch.promote_types(weight.dtype, torch.float32)
            start = noise.to(dtype, memory_format=torch.channels_last)  # as every later x_t
            condition, predict = self.condition, self.predict
            if compile:
                condition, predict = (partial(_compiled(method), self) for method in (UNet.condition, UNet.predict))
            if tile is not None and tiled:
                image = decode_in_tiles(self, z.to(weight.dtype), start, steps, tile, progress)
            else:
                conditioning = condition(z.to(weight.dtype))
                image = euler_sample(lambda x, t: predict(x, t, conditioning).velocity, start, steps)
        if check_finite:
            _check_finite("the decoded image", image)
        return image

    def record(self, z: Tensor, steps: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
        """Records a decode as a CUDA graph: for small images, whose kernels take less time than their launch.

        Args:
            z: (B, C, h, w), example latents on a GPU: all later ones have their shape and dtype.
            steps: as in `decode`.

        Returns:
            a function of z and noise (B, 3, H, W) that replays the decode. It keeps the memory of one decode, and each
            call computes with the weights of that moment, as long as they stay in place (`load_state_dict`, optimisers;
            not `to`).

        Raises:
            ValueError: the decoder is not on a GPU, or as for `decode`.
        """
        if not self.conv_in.weight.is_cuda:
            raise ValueError(f"expected a decoder on a GPU, got one on {self.conv_in.weight.device}: call decode")
        return record(lambda z, noise: self.decode(z, steps, noise), z, draw_noise(self._image_shape(z), z))

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Writes weights and configuration as one safetensors file, whole or not at all.

        Args:
            path: a file ending in `.safetensors`, or a folder, which gets `decoder.safetensors`.

        Returns:
            the file written.
        """
        file = sources.destination(path, CHECKPOINT_NAME)
        return checkpoint.write(file, self.state_dict(), {KIND: asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        config: DecoderConfig | str | None = None,
        downscale: int | None = None,
        **hub: Any,
    ) -> "Decoder":
        """Loads a decoder, in evaluation mode.

        Args:
            source: a safetensors file (a decoder alone, or encoder and decoder together), a folder that holds one, or a
                hub id (`owner/name`).
            config: the decoder that the file must hold, as configuration or size; by default the one in its header, or
                else the size with these shapes.
            downscale: F, for files with neither a header nor an encoder that gives it; 8 by default.
            hub: for a hub id: `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds another network.
        """
        contents = checkpoint.read(sources.resolve(source, CHECKPOINT_NAME, **hub))
        return cls.from_contents(contents, config, downscale)

    @classmethod
    def from_contents(
        cls, contents: checkpoint.Contents, config: DecoderConfig | str | None = None, downscale: int | None = None
    ) -> "Decoder":
        """Makes the decoder of a checkpoint that has been read, by either package; see `from_pretrained`."""
        tensors = contents.select(KIND, OWN_KEYS)
        held = _held_config(contents, tensors, downscale)
        wanted = _wanted_config(config, held, downscale)
        if wanted is None:
            raise contents.refusal("holds no decoder that is known here: pass its config")
        asked, found = describe(wanted), describe(held) if held else None
        # Refused even where the shapes fit: two networks can have equal shapes and mean different things by them.
        if found and found != asked and KIND in contents.config:
            raise contents.mismatch(tensors, asked=asked, held=found)
        with torch.device("meta"):  # no memory and no random numbers for weights that the file replaces
            decoder = cls(wanted)
        contents.fill(decoder, tensors, asked=asked, held=found)
        return decoder.to(memory_format=torch.channels_last).eval()

    @classmethod
    def is_in(cls, contents: checkpoint.Contents) -> bool:
        """Whether a checkpoint holds a decoder."""
        return contents.holds(KIND, OWN_KEYS)

    @classmethod
    def config_in(cls, contents: checkpoint.Contents) -> DecoderConfig | None:
        """Returns the configuration of a checkpoint's decoder; None where it holds none, or none that is known here.

        Args:
            contents: the checkpoint, or only its header (`checkpoint.read_header`).

        Raises:
            CheckpointError: the header is not readable, or the file holds tensors that belong to no part.
        """
        return _held_config(contents, contents.select(KIND, OWN_KEYS), None) if cls.is_in(contents) else None

    def _image_shape(self, z: Tensor) -> tuple[int, int, int, int]:
        return z.shape[0], 3, z.shape[2] * self.config.downscale, z.shape[3] * self.config.downscale

    def _check_latent(self, z: Tensor) -> None:
        channels, weight = self.config.latent_channels, self.conv_in.weight
        if not isinstance(z, Tensor):
            raise ValueError(
                f"expected latents as a tensor, got {type(z).__name__}: of a posterior, pass .mode() or .sample()"
            )
        if z.ndim != 4 or z.shape[1] != channels or 0 in z.shape:
            raise ValueError(
                f"expected z with {channels} channels, of shape (B, {channels}, h, w), got {tuple(z.shape)}: "
                "load the encoder this decoder was trained with"
            )
        if not z.is_floating_point():
            raise ValueError(f"expected floating point latents, got {z.dtype}: convert them with z.float()")
        if z.device != weight.device:
            raise ValueError(f"expected latents on {weight.device}, got {z.device}: move them with z.to(...)")

    def _check_image(self, name: str, image: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(image.shape) != shape:
            raise ValueError(
                f"expected {name} of shape {shape} for these latents, got {tuple(image.shape)}: "
                f"its sides are {self.config.downscale} times the latents'"
            )
        if not image.is_floating_point() or image.device != self.conv_in.weight.device:
            raise ValueError(
                f"expected floating point {name} on {self.conv_in.weight.device}, got {image.dtype} on {image.device}: "
                "convert it with .to(...)"
            )


@cache  # one compiled function for all decoders: otherwise each new decoder would be compiled again
def _compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(method)


def _exceeds(shape: tuple[int, ...], tile: int) -> bool:
    check_tile(tile)
    return shape[2] * shape[3] > tile**2


def _check_times(t: Tensor, z: Tensor) -> None:
    if t.ndim != 1 or t.shape[0] not in (1, z.shape[0]) or not t.is_floating_point() or t.device != z.device:
        raise ValueError(
            f"expected floating point times t of shape ({z.shape[0]},) or (1,) on {z.device}, "
            f"got {t.dtype} of shape {tuple(t.shape)} on {t.device}"
        )
    if torch.compiler.is_compiling() or t.is_meta:  # a value that decides what follows would break the graph
        return
    if bool(((t < 0) | (t > 1)).any()):
        raise ValueError(
            f"expected times t in [0, 1] (0 clean, 1 noise), got values from {t.amin():.3g} to {t.amax():.3g}: "
            "the network itself multiplies them by 1000"
        )


def _check_finite(name: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise ValueError(
            f"expected {name} to be finite, got NaN or infinity: check where it comes from, or decode in float32"
        )


def _wanted_config(
    config: DecoderConfig | str | None, held: DecoderConfig | None, downscale: int | None
) -> DecoderConfig | None:
    """Returns the requested configuration, completed by the file's where a size leaves something open."""
    if config is None and held is not None and downscale is not None:
        return replace(held, downscale=downscale)
    if not isinstance(config, str):
        return config or held
    if held is None:
        return decoder_config(config, downscale=downscale)
    if is_earlier(config, held):
        return replace(held, downscale=downscale or held.downscale)
    known = decoder_config(config, latent_channels=held.latent_channels, downscale=downscale or held.downscale)
    return replace(known, upscale=held.upscale)


def _held_config(
    contents: checkpoint.Contents, tensors: dict[str, Tensor], downscale: int | None
) -> DecoderConfig | None:
    """Returns the configuration in the header, or else the known size with these widths; None if there is none."""
    if (config := contents.parse_config(KIND, DecoderConfig)) is not None:
        return config
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    kernel = shapes.get("conv_in.weight", ())
    blocks = len({key.split(".")[2] for key in shapes if key.startswith("mid_block.transformer_blocks.")})
    # No shape of the decoder depends on F, but the levels of a published encoder in the same file do.
    levels = len({key.split(".")[2] for key in contents.tensors if key.startswith("encoder.down.")})
    for size, known in SIZES.items():
        first, last = (shapes.get(f"down_blocks.{i}.resnets.0.conv2.bias") for i in (0, len(known.widths) - 1))
        if (first, last, blocks) != ((known.widths[0],), (known.widths[-1],), known.transformer_blocks):
            continue
        latent_channels = kernel[1] - 3 * known.patch_size**2 if len(kernel) == 4 else 0
        scale = downscale or (2 ** (min(levels, 10) - 1) if levels else known.downscale)
        try:
            return decoder_config(size, latent_channels=latent_channels, downscale=scale)
        except ValueError:  # no known size has such a latent space
            return None
    return None
