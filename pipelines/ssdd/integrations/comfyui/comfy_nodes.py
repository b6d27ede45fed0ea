"""Load, encode, decode, as ComfyUI calls its nodes.

Images are (B, H, W, 3) in [0, 1], latents {"samples": (B, C, h, w)} as the encoder makes them. ComfyUI itself scales
latents for its generators.
"""

# B batch, C latent channels, F down-scale, h w latent cells, H W pixels

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.model_files import find_model
from ssdd.noise import sample_seed
from ssdd.number_formats import number_format
from ssdd.processes import choose_device

MODEL = "SSDD"  # type of a connection between these nodes
MOST_STEPS = 10_000  # as ssdd_decoder.times.MAX_STEPS
MOST_SEED = 2**64 - 1  # as ComfyUI's own nodes


class SSDDLoader:
    """Loads a model."""

    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"
    CATEGORY = "SSDD"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A file, folder, hub id, run or `demo`; the number format; the device."""
        return {
            "required": {
                "model": ("STRING", {"default": "demo"}),
                "precision": (["float32", "bfloat16", "float16"],),
                "device": (["auto", "cpu", "cuda"],),
            }
        }

    def load(self, model: str, precision: str, device: str) -> tuple[SSDD]:
        """Returns the model, on its device."""
        loaded = SSDD.from_pretrained(find_model(model))
        place = choose_device(device)
        return (loaded.to(place, number_format(precision, place)),)


class SSDDEncode:
    """Encodes images to latents, the modes of their posteriors."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "SSDD"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Images and the model."""
        return {"required": {"pixels": ("IMAGE",), "model": (MODEL,)}}

    def encode(self, pixels: Tensor, model: SSDD) -> tuple[dict[str, Tensor]]:
        """Images, cropped at the centre to multiples of F -> latents."""
        scale = model.encoder.config.downscale
        top, left = ((side % scale) // 2 for side in pixels.shape[1:3])
        height, width = (side // scale * scale for side in pixels.shape[1:3])
        if not height or not width:
            raise ValueError(f"expected images of at least {scale} x {scale} pixels, got {tuple(pixels.shape[1:3])}")
        cropped = pixels[:, top : top + height, left : left + width, :3].movedim(-1, 1)
        device = next(model.parameters()).device
        parts = [
            model.encode(image.to(device).clamp(0, 1) * 2 - 1).mode().float().cpu()
            for image in _one_by_one(cropped.split(1))
        ]
        return ({"samples": torch.cat(parts)},)


class SSDDDecode:
    """Decodes latents to images."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "SSDD"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Latents, the model, and how it decodes."""
        return {
            "required": {
                "samples": ("LATENT",),
                "model": (MODEL,),
                "steps": ("INT", {"default": 1, "min": 1, "max": MOST_STEPS}),
                "seed": ("INT", {"default": 0, "min": 0, "max": MOST_SEED}),
                "tile": ("INT", {"default": 0, "min": 0, "max": 16_384, "step": 64}),
            }
        }

    def decode(self, samples: dict[str, Tensor], model: SSDD, steps: int, seed: int, tile: int) -> tuple[Tensor]:
        """Latents -> images.

        Args:
            samples: the latents.
            model: of these latents.
            steps: 1 for distilled models, about 8 for others.
            seed: of the decoder's noise, which also depends on an image's place in the batch.
            tile: side of tiles in pixels, for less memory and the same image; 0 decodes it as a whole.
        """
        z, device = samples["samples"], next(model.parameters()).device
        images = []
        for number, latent in enumerate(_one_by_one(z.split(1))):
            generator = torch.Generator().manual_seed(sample_seed(seed, "comfyui", 0, number))
            image = model.decoder.decode(latent.to(device), steps, generator=generator, tile=tile or None)
            images.append((image.float().cpu().clamp(-1, 1) + 1) / 2)
        return (torch.cat(images).movedim(1, -1).contiguous(),)


def _one_by_one(batch: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Yields the images of a batch; moves ComfyUI's progress bar, and stops where its user has stopped the work."""
    stop: Callable[[], None] = lambda: None  # noqa: E731
    bar: Any = None
    try:
        import comfy.model_management
        import comfy.utils

        stop = comfy.model_management.throw_exception_if_processing_interrupted
        bar = comfy.utils.ProgressBar(len(batch))
    except ImportError:
        pass  # outside of ComfyUI
    for one in batch:
        stop()
        yield one
        if bar is not None:
            bar.update(1)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "SSDDLoader": SSDDLoader,
    "SSDDEncode": SSDDEncode,
    "SSDDDecode": SSDDDecode,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "SSDDLoader": "SSDD Loader",
    "SSDDEncode": "SSDD Encode",
    "SSDDDecode": "SSDD Decode",
}
