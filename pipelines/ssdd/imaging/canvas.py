"""Pictures of any size, padded to multiples of F, grouped by size, decoded and cropped again."""

# B batch, F down-scale, H W pixels of the padded canvas, h = H / F, w = W / F

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssdd.noise import sample_noise, sample_seed
from ssdd_decoder import Decoder
from ssdd_metrics import to_uint8

SMALLEST_SIDE = 64  # pixels of a canvas: a smaller one has fewer latent cells than training images have
BATCH_PIXELS = 2**22  # a batch of large pictures is cut before it is full: memory grows with pixels, not with pictures
WAITING_PIXELS = 2**26  # pixels of all pictures that wait for a full batch: 192 MiB


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A picture, padded.

    Args:
        name: name of the picture, on which its noise depends.
        size: (height, width) of the picture, which lies at the top left.
        pixels: (H, W, 3) uint8.
    """

    name: str
    size: tuple[int, int]
    pixels: np.ndarray


def padded_side(side: int, downscale: int) -> int:
    """Returns the smallest multiple of F that is at least `side` and `SMALLEST_SIDE`."""
    return -(-max(side, SMALLEST_SIDE) // downscale) * downscale


def pad(name: str, picture: Image.Image, downscale: int) -> Canvas:
    """Mirrors a picture at its right and lower edge, repeatedly if needed, up to sides that a network accepts.

    Mirrored content continues the picture's own textures; a black or repeated border would show inside the picture,
    since each pixel of a result depends on several cells around it.

    Args:
        name: name of the picture.
        picture: RGB.
        downscale: F.
    """
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    more = [(0, padded_side(side, downscale) - side) for side in (height, width)]
    return Canvas(name=name, size=(height, width), pixels=np.pad(pixels, (*more, (0, 0)), mode="reflect"))


def batches(canvases: Iterable[Canvas], batch_size: int) -> Iterator[list[Canvas]]:
    """Groups canvases of equal shape; at most `WAITING_PIXELS` wait for others of their shape.

    Args:
        canvases: of any shapes.
        batch_size: canvases per group at most; a group is smaller if it would exceed `BATCH_PIXELS`.
    """
    waiting: dict[tuple[int, ...], list[Canvas]] = {}
    held = 0

    def release(shape: tuple[int, ...]) -> list[Canvas]:
        nonlocal held
        held -= len(waiting[shape]) * shape[0] * shape[1]
        return waiting.pop(shape)

    for canvas in canvases:
        shape = canvas.pixels.shape
        waiting.setdefault(shape, []).append(canvas)
        count, area = len(waiting[shape]), shape[0] * shape[1]
        held += area
        if count >= batch_size or (count + 1) * area > BATCH_PIXELS:
            yield release(shape)
        elif held > WAITING_PIXELS:  # a folder of pictures that all differ in size would fill the memory
            yield release(max(waiting, key=lambda other: len(waiting[other]) * other[0] * other[1]))
    for shape in list(waiting):
        yield release(shape)


def to_images(group: Sequence[Canvas], device: torch.device) -> Tensor:
    """Converts canvases of equal shape to images (B, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in group]))
    return pixels.permute(0, 3, 1, 2).to(device, torch.float32).div(127.5).sub(1)


def picture_noise(seed: int, names: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
    """Draws the noise of each picture, (B, *shape), from the seed and its name alone: equal on every device."""
    return sample_noise([sample_seed(seed, f"picture {name}", 0, 0) for name in names], shape)


@torch.no_grad()
def decode_pictures(
    decoder: Decoder,
    z: Tensor,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    steps: int,
    seed: int,
    tile: int | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
    """Decodes latents to 8-bit pictures of their own sizes; a picture does not depend on the others in its batch.

    Args:
        decoder: decoder on the latents' device.
        z: latents (B, C, h, w).
        names: names of the B pictures.
        sizes: (height, width) of each, at most (h F, w F).
        steps: steps of the sampler.
        seed: seed of the noise, together with the name.
        tile: side of tiles in pixels; None for whole pictures.
        tell: told the part that is done, where there are tiles.

    Returns:
        B arrays (height, width, 3), uint8.

    Raises:
        ValueError: the latents do not fit the decoder, or the result is not finite.
    """
    scale = decoder.config.downscale
    noise = picture_noise(seed, names, (3, z.shape[2] * scale, z.shape[3] * scale)).to(z.device)
    x = decoder.decode(z, steps, noise=noise, check_finite=True, tile=tile, progress=tell)
    levels = to_uint8(((x + 1) / 2).clamp(0, 1)).permute(0, 2, 3, 1).cpu().numpy()
    return [level[:height, :width] for level, (height, width) in zip(levels, sizes, strict=True)]
